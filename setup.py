"""Hands the metadata in settings.ini to setuptools."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

config = ConfigParser(delimiters=['='], interpolation=None)
config.read(Path(__file__).with_name('settings.ini'), encoding='utf-8')
meta = config['DEFAULT']
suffix = '_requirements'

setup(
    version=meta['version'],
    description=meta['description'],
    author=meta['author'],
    license_expression=meta['license'],
    keywords=meta['keywords'].split(),
    python_requires=f">={meta['min_python']}",
    install_requires=meta['requirements'].split(),
    extras_require={key.removesuffix(suffix): value.split() for key, value in meta.items() if key.endswith(suffix)},
    entry_points={'console_scripts': meta['console_scripts'].split(), 'nbdev': [f"{meta['lib_name']}={meta['lib_name']}._modidx:d"]},
)
