"""Do puppets help VG-net with a real person it never saw? Two trainings of equal budget: python tools/puppet_help.py GRID --puppets PUPPETS -o OUT.json"""
import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from tqdm import tqdm

from atvg.clip import InputError, atomic_path
from atvg.data import OTHERS, Store
from atvg.evaluate import code_version, plain
from atvg.metrics import bootstrap
from atvg.training import train_vgnet
from puppet_proof import score_vgnet

PROTOCOL = ("both arms: same network, recipe, steps, seed; the average weights at the end, no choice of a checkpoint; alone: clips of one speaker; "
            "puppets: the same and puppets, each sample's source drawn by the square root of its number of clips; scored on a person of neither arm: "
            "portrait is the frame with the most closed mouth, frames drawn from the true landmarks (dlib on the clip); psnr in dB, RGB in float; ssim 7x7 uniform; "
            "lmd: dlib on the drawn and the real frames, 20 mouth-centred points, px, every third frame; lip_correlation: of the lip gap at lag 0; static: the portrait repeated; "
            "gain: puppets minus alone, clip by clip, mean and 95 % bootstrap interval")


def gather(folder, clips):
    "A store of links to clips of other stores, `name -> file`."
    for name, file in clips.items():
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/f'{name}.npz').symlink_to(file.resolve())
    return folder


def crowd(store):
    "All training puppets under one name, or they would be drawn more often than the person."
    return {f"puppets/{name.split('/')[1]}": store.path/f'{name}.npz' for name in store.names() if not name.startswith(f'{OTHERS}/')}


def strangers(store, speaker, most):
    "Clips of a person that belong to the training and validation parts: the test sentences stay unseen."
    names = [n for part in ('train', 'validation') for n in store.names(part, [speaker])]
    if not names: raise InputError(f'{store.path}: no clip of {speaker!r}; prepare that speaker or choose another.')
    return names[::max(1, len(names)//most)][:most]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('store', help='prepared clips of real people')
    parser.add_argument('-o', '--output', required=True, metavar='OUT.json')
    parser.add_argument('--speaker', default='s1', help='who trains')
    parser.add_argument('--stranger', default='s4', help='who is only tested')
    parser.add_argument('--puppets', required=True, metavar='STORE', help='puppets, as puppet_proof.py --folder keeps them in its subfolder store')
    parser.add_argument('--preset', default='tiny')
    parser.add_argument('--steps', type=int, default=300)
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--window', type=int, default=4)
    parser.add_argument('--clips', type=int, default=10, help='of the stranger')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(); torch.set_num_threads(1)
    real, nets, arms = Store(args.store), {}, {}
    names, own = strangers(real, args.stranger, args.clips), {n: real.path/f'{n}.npz' for n in real.names(speakers=[args.speaker])}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for arm, clips in dict(alone=own, puppets=own | crowd(Store(args.puppets))).items():
            begin, store = time.process_time(), Store(gather(folder/arm, clips))
            nets[arm] = train_vgnet(store.path, folder/f'{arm}-net', args.preset, args.seed, steps=args.steps, batch=args.batch, window=args.window, validate_every=args.steps).eval()
            arms[arm] = dict(training_clips={s: len(store.names('train', [s])) for s in store.speakers}, processor_seconds=round(time.process_time() - begin))
        scores = [score_vgnet(real[name], nets) for name in tqdm(names, args.stranger)]
    keys = [k for k in scores[0]['static'] if k != 'misses']
    groups = {row: {k: bootstrap([s[row][k] for s in scores])._asdict() for k in keys} for row in scores[0]}
    gain = {k: bootstrap([s['puppets'][k] - s['alone'][k] for s in scores])._asdict() for k in keys}
    result = dict(protocol=PROTOCOL, command=shlex.join(['python', 'tools/puppet_help.py', *sys.argv[1:]]), code=code_version(), seed=args.seed,
                  data=dict(speaker=args.speaker, stranger=args.stranger), training=dict(preset=args.preset, steps=args.steps, batch=args.batch, window=args.window, threads=1, arms=arms),
                  groups={args.stranger: groups}, gain=gain, clips=[dict(name=n, **s) for n, s in zip(names, scores)])
    with atomic_path(args.output) as file: file.write_text(json.dumps(plain(result), indent=1) + '\n')
    for row, of in groups.items(): print(row, *(f"{k} {v['mean']:.3f}" for k, v in of.items()))
    print('gain', *(f"{k} {v['mean']:.3f} ({v['low']:.3f} ... {v['high']:.3f})" for k, v in gain.items()))


if __name__ == '__main__': main()
