"""Does a talking face keep its quality? Test sentences said five times in a row: python tools/long_speech.py STORE -o OUT.json"""
import argparse
import json
import shlex
import sys

import numpy as np
from tqdm import tqdm

from atvg.clip import atomic_path
from atvg.data import Store
from atvg.evaluate import choose, code_version, fingerprint, long_speech, plain
from atvg.talk import TalkingFace

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument('store')
parser.add_argument('-o', '--output', required=True, metavar='OUT.json')
parser.add_argument('--weights', default='small')
parser.add_argument('--speaker', default='s1')
parser.add_argument('--limit', type=int, default=10, help='how many test sentences')
parser.add_argument('--seed', type=int, default=0, help='which ones')
args = parser.parse_args()

store, face = Store(args.store), TalkingFace.from_pretrained(args.weights)
names = [name for name in choose(store, speakers=[args.speaker], limit=args.limit, seed=args.seed)]
scores = [long_speech(face, store[name]) for name in tqdm(names)]
mean = {key: np.mean([score[key] for score in scores], 0) for key in scores[0]}
last = 4*len(store[names[0]])
result = dict(protocol='each sentence said five times without a pause, state carried; first 16 frames of each time; mean over sentences; '
                       'lmd: mouth LMD of AT-net landmarks to the labels, px; psnr: VG-net on the labelled landmarks, dB',
              command=shlex.join(['python', 'tools/long_speech.py', *sys.argv[1:]]), code=code_version(), weights=args.weights,
              fingerprint=fingerprint(face), clips=names, frames=[last + 1, last + 16], **plain(mean))
with atomic_path(args.output) as temporary: temporary.write_text(json.dumps(result, indent=1) + '\n')
print(*(f'{key}: first time {value[0].mean():.3f}, fifth time {value[-1].mean():.3f}' for key, value in mean.items()), sep='\n')
