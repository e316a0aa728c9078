#!/usr/bin/env python3
"""Make atvg/samples/speech.wav: espeak-ng's voice says that it is a machine's (needs the extra atvg[puppet]).

    python tools/make_speech.py -o atvg/samples/speech.wav
"""
import argparse

import numpy as np
import soundfile

from atvg.clip import SAMPLE_RATE, atomic_path
from atvg.puppet import speak

SENTENCES = ['Hello.', 'I am a generated face.', 'My voice comes from a machine,', 'and nobody has ever looked like me.']
PAUSES = .24, .28, .08  # s between them
ENDS, PEAK = .3, .7  # s of silence before and after; the largest sample


def trimmed(sound, floor=.004):
    "`sound` (n,) without the silence at its ends."
    loud = np.flatnonzero(np.abs(sound) > floor)
    return sound[loud[0]:loud[-1] + 1]


def faded(sound, seconds=.008):
    "`sound` (n,) that begins and ends at nought, so that nothing clicks."
    ramp = np.linspace(0, 1, round(seconds*SAMPLE_RATE))
    sound = sound.copy()
    sound[:len(ramp)] *= ramp
    sound[-len(ramp):] *= ramp[::-1]
    return sound


def make(voice, pitch, speed):
    "The recording float32 (n,) at 16 kHz."
    silence = lambda seconds: np.zeros(round(seconds*SAMPLE_RATE), np.float32)
    parts = [silence(ENDS)]
    for sentence, pause in zip(SENTENCES, (*PAUSES, ENDS)):
        parts += [faded(trimmed(speak(sentence, voice, pitch, speed).audio)), silence(pause)]
    sound = np.concatenate(parts)
    return sound*(PEAK/np.abs(sound).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('-o', '--output', required=True, metavar='SPEECH.wav')
    parser.add_argument('--voice', default='en', help="espeak-ng's name of a voice (default: en)")
    parser.add_argument('--pitch', type=int, default=45, help='0 to 99 (default: 45)')
    parser.add_argument('--speed', type=int, default=175, help='words a minute (default: 175)')
    args = parser.parse_args()
    sound = make(args.voice, args.pitch, args.speed)
    with atomic_path(args.output) as path: soundfile.write(path, sound, SAMPLE_RATE, subtype='PCM_16', format='WAV')
    print(f'{args.output}: {len(sound)/SAMPLE_RATE:.2f} s')


if __name__ == '__main__': main()
