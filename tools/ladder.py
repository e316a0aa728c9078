#!/usr/bin/env python
"""The paper's ablation ladder on a store of clips: each rung adds one part, all get the same steps, batches, rate and seed.

    python tools/ladder.py STORE -o data/results/ladder.json --steps 800 --seeds 0 1

A finished rung stands in the result and is skipped; a rung that was stopped goes on from its checkpoint. Each is judged on test
sentences with true landmarks, the static portrait beside it.
"""
import argparse
import shlex
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Rung:
    title:str
    net:dict     # changes to the generator's configuration
    recipe:dict  # changes to the recipe


PLAIN = dict(attention_weight=0., beta=1., adversarial=0., paint_weight=0., hint_weight=0.)
DYNAMIC = PLAIN | dict(attention_weight=1., beta=.5)
FULL = DYNAMIC | dict(adversarial=1.)
MOVED = dict(warp=True, follow=True)
EXACT = MOVED | dict(reach=.05, rounds=2)
RUNGS = dict(
    baseline=Rung('baseline', dict(composition=False, recurrence='none'), PLAIN),
    composition=Rung('+ attention composition', dict(recurrence='none'), PLAIN),
    recurrence=Rung('+ recurrence', dict(), PLAIN),
    dynamic=Rung('+ dynamic loss', dict(), DYNAMIC),
    discriminator=Rung('+ regression discriminator', dict(), FULL),
    warp=Rung('+ warped portrait', MOVED, FULL),
    exact=Rung('+ field exact at landmarks', EXACT, FULL),
    mouth=Rung('+ painter of the mouth', EXACT | dict(mouth=True), FULL),
    helpers=Rung('+ paint loss and hint', EXACT | dict(mouth=True), FULL | dict(paint_weight=2., hint_weight=.5)))

PROTOCOL = dict(
    budget='steps, batch, window, learning rate, seed and the order of clips are the same for every rung; no appearance is varied, no state carried, landmarks are the true ones',
    weights='moving average after the last step; nothing is chosen on validation',
    baseline='the motion map is the frame, every frame by itself, mean absolute error x lambda',
    helpers='the paint loss and the attention hint, ours, are on in the last rung only; the landmark field that the warp begins with has no parameters, the linear layer beside it is part of that rung',
    test='test sentences; others: people of whom no clip was trained on; portrait = the frame with the smallest lip gap among those judged; the true landmarks of all frames drive the generator, every so many frames are judged',
    lmd='mouth landmark distance, px: detector run anew on generated and real frames, mean over 20 mouth-centred points, over frames where both have a face',
    psnr='dB, RGB in float, all frames of a clip together', ssim='uniform 7x7 window, range 255, mean over RGB and frames',
    lip_correlation='correlation of the lip gap with the real one, lag 0', sharpness='spread of the Laplacian, ratio to the real frames',
    summary='scores per clip; mean over clips, seeds apart')


def presets(width, blocks):
    "Each rung's generator and discriminator under a name that recipes can give."
    from atvg.discriminator import DISCRIMINATOR_PRESETS
    from atvg.generator import VGNET_PRESETS, VGNetConfig
    DISCRIMINATOR_PRESETS['ladder'] = replace(DISCRIMINATOR_PRESETS['tiny'], width=width)
    for name, rung in RUNGS.items(): VGNET_PRESETS[f'ladder-{name}'] = VGNetConfig(width=width, blocks=blocks, dropout=0., **rung.net)


def recipe_of(name, args):
    from atvg.training import VGNetRecipe
    return VGNetRecipe(f'ladder-{name}', args.steps, args.batch, args.window, lr=args.lr, betas=(.5, .99), anneal=.5, lip_weight=10., save_every=100,
                       validate_every=10**9, **RUNGS[name].recipe)


class Judge:
    "Clips of the test part with everything about the real frames measured once; every so many frames count."

    def __init__(self, store, limit, every, seed):
        from atvg.clip import Clip
        from atvg.evaluate import Reference, choose
        self.every, self.clips = every, {name: store[name] for name in choose(store, 'test', limit=limit, seed=seed)}
        thin = lambda c: Clip(f := c.frames[::every], c.landmarks[::every], c.audio[:640*len(f)])
        self.references = {name: Reference(thin(clip)) for name, clip in self.clips.items()}

    def score(self, draw):
        "Scores of every clip for a function that draws landmarks (T,68,2) from a `Reference`'s portrait."
        return [dict(name=name, group='unseen' if name.startswith('others/') else 'seen', **self.one(r, draw(r, self.clips[name].landmarks)[::self.every]))
                for name, r in self.references.items()]

    def one(self, reference, frames):
        from atvg.evaluate import ratio
        from atvg.metrics import lip_correlation, lip_gap, lmd, psnr, redetect, sharpness, ssim
        real = reference.clip.frames; points, found = redetect(frames); both = found & reference.found
        return dict(lmd=lmd(points[both], reference.landmarks[both]) if both.any() else np.nan, psnr=psnr(frames, real), ssim=ssim(frames, real),
                    lip_correlation=lip_correlation(lip_gap(points), lip_gap(reference.landmarks)).zero, sharpness=ratio(sharpness, frames, real),
                    misses=int((~found).sum()))


def summarise(clips):
    "Mean and 95 % interval over clips by group and score; misses summed."
    from atvg.metrics import bootstrap
    def entry(rows, key): return sum(r[key] for r in rows) if key == 'misses' else bootstrap([r[key] for r in rows])._asdict()
    groups = {g: [c for c in clips if c['group'] == g] for g in sorted({c['group'] for c in clips})}
    return {g: {key: entry(rows, key) for key in rows[0] if key not in ('name', 'group')} for g, rows in groups.items()}


def draw(trainer):
    "The function that `Judge.score` asks for, by a trained generator's average."
    from atvg.clip import to_frames
    from atvg.training import render
    return lambda r, landmarks: to_frames(render(trainer.average, r.portrait, landmarks, r.portrait_landmarks, bfloat16=trainer.bfloat16).frames[0])


def climb(name, seed, args, store, judge):
    "Train and judge one rung."
    from atvg.evaluate import code_version
    from atvg.training import VGNetTrainer, read_log
    trainer = VGNetTrainer(store, Path(args.runs)/f'{name}-{seed}', recipe_of(name, args), seed, bfloat16=args.bfloat16)
    trainer.validate = lambda net: dict(score=0.)  # the budget is the same for all, nothing is chosen
    trainer.fit(resume=True)
    clips = judge.score(draw(trainer)); last = read_log(trainer.out)[-50:]
    return dict(rung=name, title=RUNGS[name].title, seed=seed, code=code_version(), parameters=sum(p.numel() for p in trainer.net.parameters()), recipe=asdict(trainer.recipe),
                training={key: float(np.mean([row[key] for row in last])) for key in last[0] if key not in ('step', 'score')}, groups=summarise(clips), clips=clips)


def save(result, path):
    import json
    from atvg.clip import atomic_path
    from atvg.evaluate import plain
    with atomic_path(path) as temporary: temporary.write_text(json.dumps(plain(result)) + '\n')


def begin(args, settings):
    "The result so far, or a new one; an `InputError` if it was made with other settings."
    import json
    from atvg.clip import InputError
    path, now = Path(args.output), dict(protocol=PROTOCOL, command=shlex.join(['python', *sys.argv]))
    if not path.exists(): return dict(now, settings=settings, static=None, arms=[])
    result = json.loads(path.read_text())
    if result['settings'] != settings: raise InputError(f"{path} was made with {result['settings']}, not {settings}; choose another output or the same settings.")
    return result | now


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('store'); parser.add_argument('-o', '--output', required=True, metavar='FILE.json')
    parser.add_argument('--runs', default='runs/ladder', help='folder for checkpoints and logs')
    parser.add_argument('--rungs', nargs='+', choices=list(RUNGS), default=list(RUNGS))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1])
    parser.add_argument('--limit', type=int, default=8, help='test clips of each speaker')
    parser.add_argument('--every', type=int, default=1, help='judge every so many frames of a test clip')
    for name, value in dict(steps=800, batch=2, window=4, width=8, blocks=2).items(): parser.add_argument(f'--{name}', type=int, default=value)
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--bfloat16', action='store_true', help='train under bfloat16 autocast (where it pays)')
    args = parser.parse_args(argv)
    from atvg.clip import InputError
    try: run(args)
    except InputError as error: sys.exit(f'ladder: {error}')


def run(args):
    from atvg.data import Store
    store = Store(args.store); presets(args.width, args.blocks)
    settings = {key: getattr(args, key) for key in 'steps batch window width blocks lr limit every bfloat16'.split()}
    settings['training clips'] = {s: n for s in store.speakers if (n := len(store.names('train', [s])))}
    result = begin(args, settings); judge = Judge(store, args.limit, args.every, seed=0)
    if result['static'] is None:
        clips = judge.score(lambda r, landmarks: np.repeat(r.portrait[None], len(landmarks), 0)); result['static'] = dict(groups=summarise(clips), clips=clips)
        save(result, args.output)
    for seed in args.seeds:
        for name in args.rungs:
            if any((arm['rung'], arm['seed']) == (name, seed) for arm in result['arms']): continue
            arm = climb(name, seed, args, store, judge); result['arms'].append(arm); save(result, args.output)
            print(name, seed, {g: {k: round(v['mean'], 3) for k, v in s.items() if k != 'misses'} for g, s in arm['groups'].items()}, flush=True)


if __name__ == '__main__': main()
