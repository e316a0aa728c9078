"""nbdev's three everyday commands under their underscored names; nbdev itself spells them with a hyphen."""
from importlib import import_module

HOMES = {'nbdev_test': 'nbdev.test', 'nbdev_export': 'nbdev.doclinks', 'nbdev_clean': 'nbdev.clean'}


def __getattr__(name):
    "nbdev's own function: it reads the command line only when the script itself calls it."
    if name not in HOMES: raise AttributeError(name)
    try: return getattr(import_module(HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name.split('.')[0] != 'nbdev': raise
        raise SystemExit(f'{name} needs nbdev, which comes with the dev extra: pip install "atvg[dev]"') from None
