"""One portrait and one recording become a talking face. The modules load what they need; this loads nothing heavy."""
from importlib.metadata import version

__version__ = version('atvg')
