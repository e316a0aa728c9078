"""How far does moving the portrait get, with nothing painted? python tools/moving_only.py STORE -o OUT.json

Three rows on the test sentences of a store: the portrait at rest, the portrait moved by its landmarks
(`atvg.generator.landmark_field`, nothing learned), and the same with the linear layer by which the rest
of the head follows (`follow_head`), trained alone on the training sentences for a few hundred steps.
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
from atvg.generator import follow_field, follow_head, landmark_field, warp_portrait
from atvg.metrics import bootstrap, lip_gap, psnr, ssim
from atvg.pca import normalise

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('store')
parser.add_argument('-o', '--output', required=True, metavar='OUT.json')
parser.add_argument('--steps', type=int, default=400)
parser.add_argument('--limit', type=int, default=10, help='how many test sentences of each speaker')
parser.add_argument('--seed', type=int, default=0)
args = parser.parse_args()


def as_input(landmarks): return torch.from_numpy(normalise(np.asarray(landmarks, np.float32))).reshape(1, -1, 136)


def train(store):
    "The linear layer alone, mean absolute error, the rate falling to zero."
    head = follow_head(); torch.nn.init.zeros_(head[0].weight)
    optimiser, names = torch.optim.Adam(head.parameters(), 1e-3), store.names('train')
    for step in tqdm(range(args.steps), 'steps'):
        batch = vgnet_batch(store, names, np.random.default_rng([args.seed, step]), 6, 5, .7)
        places = batch['portrait_landmarks'], batch['landmarks']
        loss = (warp_portrait(batch['portrait'], landmark_field(*places) + follow_field(head, *places)) - batch['frames']).abs().mean()
        optimiser.param_groups[0]['lr'] = 1e-3*(1 - step/args.steps)
        optimiser.zero_grad(); loss.backward(); optimiser.step()
    return head


@torch.no_grad()
def rows(clip, head, every=4):
    "PSNR and SSIM of every fourth frame, the portrait being the frame with the most closed mouth."
    at = int(np.argmin(lip_gap(clip.landmarks))); real = clip.frames[::every]
    portrait, places = to_tensor(clip.frames[at])[None], (as_input(clip.landmarks[at])[:, 0], as_input(clip.landmarks[::every]))
    field = landmark_field(*places)
    made = dict(static=np.repeat(clip.frames[at][None], len(real), 0), landmarks=to_frames(warp_portrait(portrait, field)[0]),
                follow=to_frames(warp_portrait(portrait, field + follow_field(head, *places))[0]))
    return {name: dict(psnr=psnr(frames, real), ssim=ssim(frames, real)) for name, frames in made.items()}


store = Store(args.store); head = train(store)
clips = {name: rows(store[name], head) for name in tqdm(choose(store, limit=args.limit, seed=args.seed), 'test sentences')}
groups = {}
for name, scores in clips.items(): groups.setdefault(name.split('/')[0], []).append(scores)
summary = {speaker: {row: {key: bootstrap([s[row][key] for s in scores]) for key in ('psnr', 'ssim')} for row in scores[0]} for speaker, scores in groups.items()}
result = dict(protocol='test sentences; portrait = the frame with the most closed mouth; the labelled landmarks; every fourth frame; PSNR RGB float, SSIM 7x7 uniform; '
                       'mean and 95 % bootstrap interval over clips; static: the portrait at rest, landmarks: moved by the landmark field, follow: and by a linear layer trained alone',
              command=shlex.join(['python', 'tools/moving_only.py', *sys.argv[1:]]), code=code_version(), steps=args.steps, seed=args.seed, groups=plain(summary), clips=plain(clips))
with atomic_path(args.output) as temporary: temporary.write_text(json.dumps(result, indent=1) + '\n')
print(json.dumps(plain(summary), indent=1))
