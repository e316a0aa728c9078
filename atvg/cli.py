"""The command line. Each command loads what it needs when it runs, so that `atvg --help` answers at once."""
import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from atvg import __version__

EXIT_CODES = 'Exit codes: 0 done, 2 something in the input to mend, 130 interrupted, 1 a fault of the program.'


class Progress:
    "One bar on stderr for each stage, moved by `progress(stage, fraction)`."

    def __init__(self): self.bar = None
    def __enter__(self): return self
    def __exit__(self, *error): self.close()

    def __call__(self, stage, fraction):
        from tqdm import tqdm
        if self.bar is None or self.bar.desc != stage:
            self.close()
            self.bar = tqdm(total=1.0, desc=stage, bar_format='{desc:<20} |{bar:30}| {percentage:3.0f}% {elapsed}')
        self.bar.update(fraction - self.bar.n)

    def close(self):
        if self.bar is not None: self.bar.close()
        self.bar = None


def quiet():
    "Warnings of the library are in `video.info` and are told once, by `report`."
    import warnings
    warnings.simplefilter('ignore', UserWarning)


def given(args, *names):
    "The options that were typed; the library keeps the defaults of the others."
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def check_suffix(path, suffix):
    if Path(path).suffix.lower() == suffix: return
    from atvg.clip import InputError
    raise InputError(f'{path}: the name of this output must end in {suffix}.')


def report(video, *paths):
    "Where the results are, what the user should know, and how long each stage took."
    for warning in video.info['warnings']: print(f'atvg: warning: {warning}', file=sys.stderr)
    for path in paths: print(path)
    print(f'{len(video.frames)} frames, {len(video.frames) / video.fps:.2f} s of video')
    for stage, seconds in video.info['seconds'].items(): print(f'  {stage:<20} {seconds:6.2f} s')


def demo(args):
    from atvg.talk import demo
    quiet()
    folder = Path(args.output)
    with Progress() as progress: video = demo(folder, progress=progress)
    report(video, folder/'talking.mp4', folder/'talking.png')


def generate(args):
    from atvg.clip import atomic_path
    wanted = {'save': (args.output, '.mp4')} | {name: (path, '.png') for name, path in given(args, 'storyboard').items()}
    for path, suffix in wanted.values(): check_suffix(path, suffix)
    with ExitStack() as stack:  # entered before the work: an output that cannot be written is told at once
        files = {name: stack.enter_context(atomic_path(path)) for name, (path, _) in wanted.items()}
        from atvg.talk import TalkingFace
        quiet()
        face = TalkingFace.from_pretrained(**given(args, 'weights', 'detector', 'device'))
        options = given(args, 'gain', 'smooth', 'seed', 'label', 'paste_back')
        with Progress() as progress: video = face.generate(args.portrait, args.speech, progress=progress, **options)
        for name, file in files.items(): getattr(video, name)(file)
    report(video, *(path for path, _ in wanted.values()))


def prepare(args):
    from atvg.data import prepare
    done = prepare(args.sources, args.output, **given(args, 'workers', 'detector'))
    for reason in done['reasons']: print(f'atvg: left out: {reason}', file=sys.stderr)
    for note in done.get('notes', []): print(f'atvg: note: {note}', file=sys.stderr)
    print(f"{args.output}: {done['clips']} clips prepared ({done['frames']} frames, {done['frames']/25:.1f} s), "
          f"{done['skipped']} videos were there, {done['failed']} left out")
    for kind, n in done.get('kinds', {}).items(): print(f'  {n} x {kind}')
    if done['misses']: print(f"  {done['misses']} frames on which no face was found lie in gaps that were bridged")
    return 0 if done['clips'] + done['skipped'] else 2


def download(args):
    from atvg.data import download_grid
    try: files = download_grid(args.output, args.speakers, **given(args, 'record'))
    except KeyboardInterrupt: raise KeyboardInterrupt('; what has arrived is kept: the same command goes on from there') from None
    print(*files, sep='\n')
    print(f'next: atvg prepare {args.output} -o STORE')


def train(args):
    from atvg import training
    run, options = getattr(training, f'train_{args.network}'), given(args, 'preset', 'steps', 'batch', 'lr', 'seed', 'device', 'resume')
    if hasattr(args, 'precision'): options['bfloat16'] = dict(auto=None, float32=False, bfloat16=True)[args.precision]
    try: run(args.data, args.out, **options)
    except KeyboardInterrupt: raise KeyboardInterrupt('; what was learnt is kept: go on with --resume') from None
    if os.environ.get('RANK', '0') == '0': print(Path(args.out)/'weights.safetensors')  # the first of several processes speaks for all


def evaluate(args):
    check_suffix(args.output, '.json')
    from atvg.evaluate import evaluate
    scores = evaluate(args.data, output=args.output, **given(args, 'weights', 'split', 'limit', 'seed', 'device'))
    print(scores.table(), args.output, sep='\n')


def experiments(args):
    from atvg.experiments import run_experiments
    for path in run_experiments(**given(args, 'root', 'output', 'only')): print(path)


def import_official(args):
    from atvg.official import import_official
    print(import_official(args.atnet, args.vgnet, args.basis, args.mean, args.output))


def check(args):
    from atvg.check import check
    return 0 if check() else 2


def build_parser():
    parser = argparse.ArgumentParser(prog='atvg', epilog=EXIT_CODES,
        description='One portrait and one recording become a talking face. Use it on faces of people who agreed to it.')
    parser.add_argument('--version', action='version', version=__version__)
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)

    def command(run, help):
        sub = commands.add_parser(run.__name__.replace('_', '-'), help=help, description=f'{help[0].upper()}{help[1:]}.', argument_default=argparse.SUPPRESS)
        sub.set_defaults(run=run)
        return sub.add_argument

    add = command(demo, 'make talking.mp4 and talking.png from the portrait and the recording that come along')
    add('-o', '--output', metavar='FOLDER', default='.', help='where to put them (default: here)')

    add = command(generate, 'make a video of a portrait speaking a recording')
    add('portrait', metavar='PORTRAIT', help='a picture with a face (JPEG, PNG, WebP ...)')
    add('speech', metavar='SPEECH', help='a recording of speech, or a video with sound')
    add('-o', '--output', metavar='OUT.mp4', required=True, help='the video to write')
    add('--storyboard', metavar='OUT.png', help='also draw frames, motion, attention and landmarks over time')
    add('--weights', metavar='NAME|PATH', help='a shipped preset, or a file or folder of trained weights')
    add('--detector', metavar='NAME', help='dlib or face-alignment (default: the one that labelled the training data)')
    add('--gain', type=float, metavar='G', help='scale the movement of the landmarks; 1 leaves it as predicted')
    add('--smooth', type=float, metavar='S', help='smooth the landmarks over time; 0 does not')
    add('--paste-back', action='store_true', help='put the moving face back into the whole picture')
    add('--label', action='store_true', help='write "AI-generated" on the picture')
    add('--seed', type=int, metavar='N', help='seed of whatever is random')
    add('--device', metavar='DEVICE', help='cpu, cuda, cuda:1 ...')

    add = command(download, 'download speakers of a public corpus of speaking people')
    add('corpus', choices=['grid'], help='grid: people who speak sentences of six words, CC BY 4.0 (see data/grid.md)')
    add('--speakers', metavar='N-M', required=True, help='numbers of speakers, such as 1-4,7')
    add('-o', '--output', metavar='FOLDER', required=True, help='where the archives go; what has arrived is kept')
    add('--record', metavar='URL', help='the list of files, if not that of the public record')

    add = command(prepare, 'turn videos of speaking people into a store of clips to train on')
    add('sources', metavar='VIDEO', nargs='+', help='videos, or folders or archives (.zip, .tar) of them; the name of a folder is that of its speaker')
    add('-o', '--output', metavar='STORE', required=True, help='folder of the store; clips already in it are kept')
    add('--workers', type=int, metavar='N', help='how many videos to prepare at once (default: one for each core)')
    add('--detector', metavar='NAME', help='dlib (the default) or face-alignment')

    add = command(train, 'train one of the two networks on a store of clips')
    add('network', choices=['atnet', 'vgnet'], help='atnet: sound to landmarks, first; vgnet: landmarks to frames')
    add('--data', '--store', metavar='STORE', required=True, help='a store made by `atvg prepare`')
    add('--out', metavar='FOLDER', required=True, help='where checkpoints, samples and the record go')
    add('--preset', metavar='NAME', help='size and settings: tiny, small, paper or official (vgnet also small-paper)')
    add('--steps', type=int, metavar='N', help='how many steps')
    add('--batch', type=int, metavar='N', help='how many clips a step, over all processes')
    add('--lr', type=float, metavar='RATE', help='learning rate, instead of the preset\'s')
    add('--seed', type=int, metavar='N', help='seed of the initial weights and of the order of the data')
    add('--device', metavar='DEVICE', help='cpu, cuda, cuda:1 ...')
    add('--precision', choices=['auto', 'float32', 'bfloat16'], help='auto (the default) measures whether bfloat16 is faster on this machine')
    add('--resume', action='store_true', help='go on from the last checkpoint in FOLDER')

    add = command(evaluate, 'measure trained weights on the test sentences of a store, beside their baselines')
    add('--data', '--store', metavar='STORE', required=True, help='a store made by `atvg prepare`')
    add('--weights', metavar='NAME|PATH', help='a shipped preset, or a file or folder of trained weights')
    add('-o', '--output', metavar='OUT.json', required=True, help='where the scores go')
    add('--split', choices=['train', 'validation', 'test'], help='the part of the split (default: test)')
    add('--limit', type=int, metavar='N', help='at most so many clips of each speaker')
    add('--seed', type=int, metavar='N', help='seed of the choice of clips and of the noise')
    add('--device', metavar='DEVICE', help='cpu, cuda, cuda:1 ...')

    add = command(experiments, "make the stored results of the claims' experiments; what is complete is not made again")
    add('only', metavar='NAME', nargs='*', help='which ones, such as claim1 (default: all)')
    add('--root', metavar='FOLDER', help='where single runs and networks are kept (default: runs/experiments)')
    add('-o', '--output', metavar='FOLDER', help='where the results go (default: data/results)')

    add = command(import_official, 'turn checkpoints of the released ATVGnet code into weights for --weights')
    add('--atnet', metavar='FILE.pth', required=True, help='its AT-net, such as atnet_lstm_18.pth')
    add('--vgnet', metavar='FILE.pth', required=True, help='its VG-net, such as generator_23.pth')
    add('--basis', metavar='FILE.npy', required=True, help='the PCA basis they were trained with, such as U_lrw1.npy')
    add('--mean', metavar='FILE.npy', required=True, help='its mean, such as mean_lrw1.npy')
    add('-o', '--output', metavar='FOLDER', required=True, help='where the weights go')

    command(check, 'try every dependency and detector, and say how to mend what fails')
    return parser


def is_input_error(error):
    "Nothing can have raised an `InputError` before its module was loaded."
    clip = sys.modules.get('atvg.clip')
    return clip is not None and isinstance(error, clip.InputError)


def main(argv=None):
    args = build_parser().parse_args(argv)
    try: return args.run(args) or 0
    except KeyboardInterrupt as stop:
        print(f'atvg: interrupted{stop}', file=sys.stderr)
        return 130
    except Exception as error:
        if not is_input_error(error): raise
        print(f'atvg: {error}', file=sys.stderr)
        return 2


if __name__ == '__main__': sys.exit(main())
