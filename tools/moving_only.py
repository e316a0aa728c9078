"""How far does moving the portrait get, with nothing painted? python tools/moving_only.py STORE -o OUT.json

Four rows on the test sentences of a store: the portrait at rest, the portrait moved by its landmarks
(`atvg.generator.landmark_field`, nothing learned), without and with correction, and the latter with the linear
layer by which the rest of the head follows (`follow_head`), trained alone on the training sentences for a few
hundred steps. How far a landmark reaches and how often it is corrected was chosen before, on validation
sentences, by the sweep that comes first.
"""
import argparse
import json
import shlex
import sys

import numpy as np
import torch
from tqdm import tqdm

from atvg.clip import atomic_path, to_frames, to_tensor
from atvg.data import Store, vgnet_batch
from atvg.evaluate import choose, code_version, plain
from atvg.generator import VGNET_PRESETS, follow_field, follow_head, landmark_field, warp_portrait
from atvg.metrics import bootstrap, lip_gap, lmd, psnr, redetect, ssim
from atvg.pca import normalise

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('store')
parser.add_argument('-o', '--output', required=True, metavar='OUT.json')
parser.add_argument('--steps', type=int, default=400)
parser.add_argument('--limit', type=int, default=10, help='how many test sentences of each speaker')
parser.add_argument('--seed', type=int, default=0)
args = parser.parse_args()

SMALL = VGNET_PRESETS['small']
EXACT = dict(sigma=SMALL.reach, rounds=SMALL.rounds)


def as_input(landmarks): return torch.from_numpy(normalise(np.asarray(landmarks, np.float32))).reshape(1, -1, 136)


def train(store):
    "The linear layer alone, mean absolute error, the rate falling to zero."
    head = follow_head(); torch.nn.init.zeros_(head[0].weight)
    optimiser, names = torch.optim.Adam(head.parameters(), 1e-3), store.names('train')
    for step in tqdm(range(args.steps), 'steps'):
        batch = vgnet_batch(store, names, np.random.default_rng([args.seed, step]), 6, 5, .7)
        places = batch['portrait_landmarks'], batch['landmarks']
        loss = (warp_portrait(batch['portrait'], landmark_field(*places, **EXACT) + follow_field(head, *places)) - batch['frames']).abs().mean()
        optimiser.param_groups[0]['lr'] = 1e-3*(1 - step/args.steps)
        optimiser.zero_grad(); loss.backward(); optimiser.step()
    return head


def start(clip, every):
    "Portrait, its landmarks and the frame's, the real frames and what the detector sees in them."
    at = int(np.argmin(lip_gap(clip.landmarks))); real = clip.frames[::every]
    return clip.frames[at], (as_input(clip.landmarks[at])[:, 0], as_input(clip.landmarks[::every])), real, redetect(real)


def lips(frames, seen):
    "LMD between what the detector sees in made frames and what it saw in the real ones."
    points, found = redetect(frames); both = found & seen[1]
    return lmd(points[both], seen[0][both]) if both.any() else np.nan


@torch.no_grad()
def rows(clip, head, every=4):
    "PSNR, SSIM and LMD of every fourth frame, the portrait being the frame with the most closed mouth."
    still, places, real, seen = start(clip, every); portrait = to_tensor(still)[None]
    move = lambda field: to_frames(warp_portrait(portrait, field)[0])
    exact = landmark_field(*places, **EXACT)
    made = dict(static=np.repeat(still[None], len(real), 0), blended=move(landmark_field(*places)), exact=move(exact),
                follow=move(exact + follow_field(head, *places)))
    return {name: dict(psnr=psnr(frames, real), ssim=ssim(frames, real), lmd=lips(frames, seen)) for name, frames in made.items()}


@torch.no_grad()
def sweep(clips, every=4):
    "Mean LMD over clips for each reach and number of rounds."
    told = [start(clip, every) for clip in clips]
    return {f'{sigma}, {rounds} rounds': float(np.mean([lips(to_frames(warp_portrait(to_tensor(still)[None], landmark_field(*places, sigma, rounds))[0]), seen)
                                                        for still, places, real, seen in told])) for sigma in (.08, .05, .035) for rounds in (0, 2, 8)}


store = Store(args.store)
choice = sweep([store[name] for name in choose(store, 'validation', limit=4, seed=args.seed)])
print(json.dumps(plain(choice), indent=1), flush=True)
head = train(store)
clips = {name: rows(store[name], head) for name in tqdm(choose(store, limit=args.limit, seed=args.seed), 'test sentences')}
groups = {}
for name, scores in clips.items(): groups.setdefault(name.split('/')[0], []).append(scores)
summary = {speaker: {row: {key: bootstrap([s[row][key] for s in scores]) for key in ('psnr', 'ssim', 'lmd')} for row in scores[0]} for speaker, scores in groups.items()}
result = dict(protocol='test sentences; portrait = the frame with the most closed mouth; the labelled landmarks; every fourth frame; PSNR RGB float, SSIM 7x7 uniform; '
                       'LMD px, detector run anew on made and real frames, over frames where it found both; mean and 95 % bootstrap interval over clips; static: the portrait at rest, '
                       'blended: moved by the landmark field, exact: by the field with correction, follow: and by a linear layer trained alone; choice: LMD of the field alone '
                       'on validation sentences, up to four of each speaker',
              command=shlex.join(['python', 'tools/moving_only.py', *sys.argv[1:]]), code=code_version(), steps=args.steps, seed=args.seed, choice=plain({k: round(v, 3) for k, v in choice.items()}), groups=plain(summary), clips=plain(clips))
with atomic_path(args.output) as temporary: temporary.write_text(json.dumps(result, indent=1) + '\n')
print(json.dumps(plain(summary), indent=1))
