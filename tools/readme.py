#!/usr/bin/env python3
"""Make README.md from nbs/index.ipynb; with --check, say whether the two agree."""
import base64
import json
import posixpath
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 'nbs/images'
NOTE = '<!-- Made from nbs/index.ipynb by `make readme`: change the notebook, not this file. -->\n'


def from_root(markdown):
    "Links and pictures are relative to nbs/ in the notebook, to the repository's root in the README."
    moved = lambda m: m[1] + posixpath.normpath(f'nbs/{m[2]}')
    return re.sub(r'(\]\(|\b(?:src|href)=")(?![a-z]+:|[#/])([^)"\s]+)', moved, markdown)


def output_markdown(output, name, images):
    "One stored output as Markdown; a picture goes to `images`, what a page cannot show is left out."
    data = output.get('data', {'text/plain': output.get('text', '')})
    if 'image/png' in data:
        images[f'{IMAGES}/{name}.png'] = base64.b64decode(''.join(data['image/png']))
        return f'![]({IMAGES}/{name}.png)'
    if 'text/markdown' in data: return from_root(''.join(data['text/markdown']))
    text = '' if 'text/html' in data else ''.join(data['text/plain']).rstrip()
    return text and f'```text\n{text}\n```'


def convert(notebook):
    "The notebook as (Markdown, {path: picture}); cells marked `#| hide` are left out."
    parts, images = [], {}
    for cell in notebook['cells']:
        source = ''.join(cell['source'])
        directives = {line.strip() for line in re.findall(r'^#\|(.*)$', source, re.M)}
        if 'hide' in directives: continue
        if cell['cell_type'] == 'markdown':
            parts.append(from_root(source))
            continue
        code = re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip()
        if code and 'echo: false' not in directives: parts.append(f'```python\n{code}\n```')
        parts += [output_markdown(o, f"readme-{cell['id']}-{i}", images) for i, o in enumerate(cell['outputs'])]
    return NOTE + '\n' + '\n\n'.join(part for part in parts if part) + '\n', images


def main():
    text, files = convert(json.loads((ROOT/'nbs/index.ipynb').read_text(encoding='utf-8')))
    files['README.md'] = text.encode()
    stale = {str(path.relative_to(ROOT)) for path in (ROOT/IMAGES).glob('readme-*')} - set(files)
    wrong = [name for name, data in files.items() if not (ROOT/name).is_file() or (ROOT/name).read_bytes() != data]
    if '--check' in sys.argv[1:]:
        if wrong or stale: sys.exit(f"not as in nbs/index.ipynb: {', '.join([*wrong, *stale])}; run `make readme`")
        return
    for name in stale: (ROOT/name).unlink()
    for name in wrong:
        (ROOT/name).parent.mkdir(exist_ok=True)
        (ROOT/name).write_bytes(files[name])


if __name__ == '__main__': main()
