"""What does a voice lose that AT-net never heard? Two trainings of equal budget: python tools/unheard_voice.py STORE -o OUT.json"""
import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tqdm import tqdm

from atvg.clip import atomic_path
from atvg.data import Store
from atvg.evaluate import choose, code_version, plain
from atvg.metrics import bootstrap
from atvg.training import Units, load_weights, train_atnet
from puppet_help import gather
from puppet_proof import score_atnet

PROTOCOL = ("both arms: same network, recipe, steps, seed; `all`: every speaker of the store, `without`: all but one; the checkpoint of the best validation of each; "
            "scored on the validation and test sentences of that speaker (of the arm `all` the validation sentences helped to choose the checkpoint) and on test sentences of the others, "
            "no frame is drawn: landmarks heard from the sound alone against the clip's own, portrait is the frame with the most closed mouth; "
            "lip_correlation: of the lip gap at lag 0; lmd: 20 mouth-centred points, px; six: what six coefficients can say; static: the portrait repeated")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('store', help='prepared clips of real people, and of puppets if they shall train too')
    parser.add_argument('-o', '--output', required=True, metavar='OUT.json')
    parser.add_argument('--voice', default='s4', help='the speaker who is left out')
    parser.add_argument('--preset', default='small')
    parser.add_argument('--steps', type=int, default=500)
    parser.add_argument('--limit', type=int, default=10, help='test sentences of each other speaker')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(); torch.set_num_threads(1)
    store, arms, scores = Store(args.store), {}, {}
    if args.voice not in store.speakers: raise SystemExit(f'{args.store} has no speaker {args.voice!r}; it has {", ".join(store.speakers)}.')
    rest = [s for s in store.speakers if s != args.voice]
    names = [n for part in ('validation', 'test') for n in store.names(part, [args.voice])] + choose(store, 'test', rest, args.limit, args.seed)
    with TemporaryDirectory() as temporary:
        for arm, speakers in dict(all=store.speakers, without=rest).items():
            begin, folder = time.process_time(), gather(Path(temporary)/arm, {n: store.path/f'{n}.npz' for n in store.names(speakers=speakers)})
            train_atnet(folder, Path(temporary)/f'{arm}-net', args.preset, args.seed, steps=args.steps, bfloat16=False)
            atnet, record, arrays = load_weights(Path(temporary)/f'{arm}-net'/'weights.safetensors')
            arms[arm] = dict(training_clips=record['data'], step=record['step'], processor_seconds=round(time.process_time() - begin))
            scores[arm] = {n: score_atnet(store[n], atnet, Units.from_arrays(arrays)) for n in tqdm(names, arm)}
    groups = {}
    for speaker in store.speakers:
        mine = [n for n in names if n.startswith(f'{speaker}/')]
        rows = {arm: [scores[arm][n]['audio'] for n in mine] for arm in arms} | {row: [scores['all'][n][row] for n in mine] for row in ('six', 'static')}
        groups[speaker] = {row: {key: bootstrap([s[key] for s in of])._asdict() for key in of[0]} for row, of in rows.items() if of}
    result = dict(protocol=PROTOCOL, command=shlex.join(['python', 'tools/unheard_voice.py', *sys.argv[1:]]), code=code_version(), seed=args.seed,
                  voice=args.voice, training=dict(preset=args.preset, steps=args.steps, threads=1, arms=arms), groups=groups,
                  clips=[dict(name=n, **{arm: scores[arm][n]['audio'] for arm in arms}) for n in names])
    with atomic_path(args.output) as file: file.write_text(json.dumps(plain(result), indent=1) + '\n')
    for speaker, of in groups.items(): print(speaker, {row: {key: round(v['mean'], 3) for key, v in s.items()} for row, s in of.items()})


if __name__ == '__main__': main()
