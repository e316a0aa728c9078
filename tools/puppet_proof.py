"""Do the networks learn from puppets what holds for puppets they never met? python tools/puppet_proof.py atnet|vgnet -o OUT.json"""
import argparse
import base64
import io
import json
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from atvg.clip import atomic_path, to_frames
from atvg.data import OTHERS, Store, smooth_landmarks, split_of
from atvg.evaluate import code_version, plain
from atvg.metrics import bootstrap, lip_correlation, lip_gap, lmd, psnr, redetect, ssim
from atvg.puppet import Identity, puppet_store
from atvg.training import ATNET_RECIPES, VGNET_RECIPES, Units, load_weights, predict_landmarks, read_log, render, train_atnet, train_vgnet

MOST = dict(atnet=20, vgnet=12)  # clips of a group that are scored
HELD_OUT = {'m3', 'm6', 'f2', 'f5'}  # variants of espeak's voice that no training puppet has
CROWD = dict(atnet=dict(puppets=150, sentences=4, strangers=8), vgnet=dict(puppets=24, sentences=4, strangers=6))  # AT-net's is not painted
BUDGET = dict(  # preset and what is changed in its recipe
    atnet=('tiny', dict(steps=1500, batch=12, window=40, vary=.8, anneal=.6, validate_every=275)),
    vgnet=('tiny', dict(steps=300, validate_every=150)))


def people(n, heard, first):
    "Seeds of the first `n` identities from `first` on whose voice is heard in training, or is not."
    seeds = range(first, first + 20*n)
    return [i for i in seeds if (Identity.random(i).voice.split('+')[1] not in HELD_OUT) == heard][:n]


def make_store(folder, train, sentences, test, seed, paint):
    "Puppets of the training and, in `others`, strangers with unheard voices who say sentences of the test part only."
    for i in tqdm(people(train, True, 0), 'training puppets'): puppet_store(folder, [i], sentences, seed, paint=paint)
    for i in tqdm(people(test, False, 1000), 'strangers'): puppet_store(folder, [i], 2, seed, OTHERS, lambda code: split_of(code) == 'test', paint=paint)
    return Store(folder)


def closed(landmarks): return int(lip_gap(landmarks).argmin())


def score_atnet(clip, atnet, units):
    "Landmarks heard in the sound, beside the true ones."
    truth = clip.landmarks; portrait = truth[closed(truth)]
    heard = predict_landmarks(atnet, units, portrait, clip.audio, len(truth))
    limit = units.pca.apply(portrait, units.pca.encode(smooth_landmarks(truth)), units.pca.encode(portrait[None])[0])
    rows = dict(audio=heard, six=limit, static=np.repeat(portrait[None], len(truth), 0))
    return {row: dict(lip_correlation=lip_correlation(points, truth).zero, lmd=lmd(points, truth)) for row, points in rows.items()}


def score_vgnet(clip, vgnets):
    "Frames drawn from the true landmarks by some networks, beside the static portrait; landmarks are what dlib sees in either."
    at = closed(clip.landmarks); portrait, T = clip.frames[at], len(clip)
    some = slice(None, None, 3)
    real, found = redetect(clip.frames[some])
    def row(frames, seen=None, ok=None):
        if seen is None: seen, ok = redetect(frames[some])
        both = found & ok
        return dict(psnr=psnr(frames, clip.frames), ssim=ssim(frames, clip.frames), lmd=lmd(seen[both], real[both]) if both.any() else np.nan,
                    lip_correlation=lip_correlation(seen, real).zero, misses=int((~ok).sum()))
    drawn = {name: to_frames(render(net, portrait, clip.landmarks, clip.landmarks[at]).frames[0]) for name, net in vgnets.items()}
    still = np.repeat(portrait[None], T, 0), *(np.repeat(v, len(real), 0) for v in redetect(portrait[None]))
    return {name: row(frames) for name, frames in drawn.items()} | dict(static=row(*still))


def summary(scores):
    "Mean and 95 % interval over clips of every row and score."
    return {row: {key: bootstrap([s[row][key] for s in scores])._asdict() for key in scores[0][row]} for row in scores[0]}


def groups(store):
    "Clips of the test part: strangers, and people of the training saying unheard sentences."
    return dict(strangers=store.names('test', [OTHERS]), known=store.names('test', [s for s in store.speakers if s != OTHERS]))


PROTOCOL = dict(
    atnet='landmarks heard in the sound, from the landmarks of the frame with the most closed mouth; against the exact ones of the puppet; '
          'lip_correlation: of the lip gap at lag 0, a clip; lmd: 20 mouth-centred points, px; six: exact landmarks through the six coefficients; '
          'static: the portrait repeated, its correlation is 0 by definition; at most 20 clips of a group',
    vgnet='portrait: the frame with the most closed mouth; frames drawn from the exact landmarks; psnr in dB, RGB in float; ssim 7x7 uniform; '
          "lmd: dlib on the drawn and on the puppet's 128-pixel frames, 20 mouth-centred points, px, frames where both were found; static: the portrait repeated")


def train(task, folder, out, seed, changes):
    "The training, the seconds of processor time that it took (None if it had begun before), and its recipe."
    preset, usual = BUDGET[task]; changes = usual | changes; preset = changes.pop('preset', preset)
    begin, new = time.process_time(), not (out/'last.pt').exists()
    (train_atnet if task == 'atnet' else train_vgnet)(folder, out, preset, seed, resume=True, **changes)
    recipe = replace((ATNET_RECIPES if task == 'atnet' else VGNET_RECIPES)[preset], **changes)
    return dict(recipe=asdict(recipe), processor_seconds=round(time.process_time() - begin) if new else None, threads=torch.get_num_threads())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('task', choices=BUDGET)
    parser.add_argument('-o', '--output', required=True, metavar='OUT.json')
    parser.add_argument('--puppets', type=int, help='identities in training')
    parser.add_argument('--sentences', type=int, help='of each of them')
    parser.add_argument('--strangers', type=int, help='identities that are only tested, two sentences each')
    parser.add_argument('--preset', choices=ATNET_RECIPES)
    parser.add_argument('--steps', type=int)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--folder', help='keep the store and the weights here and go on with what is here; default: a temporary folder')
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)/args.task
        size = CROWD[args.task] | {k: v for k, v in dict(puppets=args.puppets, sentences=args.sentences, strangers=args.strangers).items() if v}
        store = make_store(folder/'store', *size.values(), args.seed, args.task == 'vgnet')
        record = train(args.task, store.path, folder/'run', args.seed, {k: v for k, v in dict(preset=args.preset, steps=args.steps).items() if v is not None})
        net, best, arrays = load_weights(folder/'run'/'weights.safetensors')
        result = dict(protocol=PROTOCOL[args.task], command=shlex.join(['python', 'tools/puppet_proof.py', *sys.argv[1:]]), code=code_version(), seed=args.seed,
                      data=dict(**size, training_clips=len(store.names('train')), unheard_voices=sorted(HELD_OUT)),
                      training=record | dict(best_step=best['step']), **judge(args.task, store, net, arrays), log=thin(read_log(folder/'run')))
    with atomic_path(args.output) as file: file.write_text(json.dumps(plain(result), indent=1) + '\n')
    for group, rows in result['groups'].items():
        for row, scores in rows.items(): print(group, row, *(f"{key} {value['mean']:.3f}" for key, value in scores.items()))


def judge(task, store, net, arrays):
    "Scores of both groups, and what there is to see of the first stranger."
    units = Units.from_arrays(arrays) if task == 'atnet' else None; out = dict(groups={}, clips=[])
    for group, names in ((group, names) for group, names in groups(store).items() if names):
        clips = [(name, store[name]) for name in names[:MOST[task]]]
        scores = [score_atnet(clip, net, units) if task == 'atnet' else score_vgnet(clip, dict(true=net)) for _, clip in tqdm(clips, group)]
        out['groups'][group] = summary(scores)
        out['clips'] += [dict(name=name, group=group, identity=clip.info['identity'], **rows) for (name, clip), rows in zip(clips, scores)]
    name = groups(store)['strangers'][0]; clip = store[name]
    return out | dict(example=dict(name=name, text=clip.info['text'], **(curves(clip, net, units) if task == 'atnet' else strip(clip, net))))


def curves(clip, atnet, units):
    "The lip gap, true and heard."
    return dict(truth=lip_gap(clip.landmarks), heard=lip_gap(predict_landmarks(atnet, units, clip.landmarks[closed(clip.landmarks)], clip.audio, len(clip))))


def strip(clip, vgnet, n=6):
    "Some frames and, below, what was drawn, as a JPEG in base64; the first column is the portrait."
    at = closed(clip.landmarks); k = np.linspace(6, len(clip) - 7, n).astype(int)
    drawn = to_frames(render(vgnet, clip.frames[at], clip.landmarks, clip.landmarks[at]).frames[0])
    rows = [np.concatenate([clip.frames[at], *of[k]], 1) for of in (clip.frames, drawn)]
    Image.fromarray(np.concatenate(rows)).save(file := io.BytesIO(), 'JPEG', quality=80)
    return dict(frames=k, jpeg=base64.b64encode(file.getvalue()).decode())


def thin(log, most=60):
    "Some rows of the log, the validations among them."
    return [row for k, row in enumerate(log) if not k % max(1, len(log)//most) or 'score' in row]


if __name__ == '__main__': main()
