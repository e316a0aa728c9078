"""The demos in a real browser: JupyterLab on loopback, and Voila, driven by a headless Chromium."""
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from atvg.talk import SAMPLES
from atvg.widgets import LIMIT

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ['chromium', 'chromium-browser', 'google-chrome'])), None)
FLAGS = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()
PATIENCE = 120_000  # ms; a free machine needs a tenth
PORTRAIT, SPEECH = SAMPLES/'portrait.png', SAMPLES/'speech.wav'


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    if CHROMIUM is None:
        if os.environ.get('CI'): pytest.fail('there is no Chromium here, and .ci/run should have installed it: apt-get install chromium')
        pytest.skip('needs a browser: apt-get install chromium')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(tmp_path_factory.mktemp('chromium'), executable_path=CHROMIUM, args=FLAGS, headless=True,
                                                                viewport=dict(width=1280, height=1000))
        context.set_default_timeout(PATIENCE)
        yield context
        context.close()


def lab_options():
    "The options with which `make lab` starts JupyterLab."
    command = subprocess.run(['make', '--no-print-directory', '-n', 'lab'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [word for word in shlex.split(command.split('jupyter lab', 1)[1]) if word.startswith('--')]


@pytest.fixture(scope='module')
def server(browser, tmp_path_factory):
    "JupyterLab over copies of the demos: the address of a path, and the folder."
    folder, home = tmp_path_factory.mktemp('nbs'), tmp_path_factory.mktemp('jupyter')
    for notebook in (ROOT/'nbs').glob('3?_demo_*.ipynb'): shutil.copy(notebook, folder)
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    (home/'config'/'labconfig').mkdir(parents=True)
    (home/'config'/'labconfig'/'page_config.json').write_text('{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}')
    token, url = secrets.token_hex(16), f'http://127.0.0.1:{port}'
    places = {f'JUPYTER_{name}_DIR': str(home/name.lower()) for name in 'CONFIG RUNTIME DATA'.split()}
    places |= {f'JUPYTERLAB_{name}_DIR': str(home/name.lower()) for name in 'SETTINGS WORKSPACES'.split()}
    own = ['--ip=127.0.0.1', f'--port={port}', '--ServerApp.port_retries=0', f'--IdentityProvider.token={token}', f'--ServerApp.root_dir={folder}',
           '--no-browser', '--allow-root', '--LabApp.expose_app_in_browser=True', '--LabApp.news_url=None', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    with open(home/'log.txt', 'w') as log:
        process = subprocess.Popen([sys.executable, '-m', 'jupyter', 'lab', *lab_options(), *own], env=os.environ | places | dict(PYTHONPATH=path), stdout=log, stderr=subprocess.STDOUT)
    def ask(path, method='GET'):
        request = urllib.request.Request(f'{url}/{path}', method=method, headers=dict(Authorization=f'token {token}'))
        return urllib.request.urlopen(request, timeout=30).read()
    try:
        end = time.monotonic() + 90
        while True:
            try: ask('api'); break
            except OSError:
                if process.poll() is not None or time.monotonic() > end: pytest.fail((home/'log.txt').read_text()[-3000:])
                time.sleep(.2)
        with pytest.raises(urllib.error.HTTPError): urllib.request.urlopen(f'{url}/api/kernels')
        yield lambda path: f'{url}/{path}{"&" if "?" in path else "?"}token={token}', folder, ask
    finally:
        process.terminate()
        process.wait(30)


class Demo:
    "A demo in a page of the browser."
    def __init__(self, page): self.page = page
    def button(self, name): return self.page.locator('button.widget-button', has_text=re.compile(f'^\\s*{name}\\s*$'))
    def field(self, label): return self.page.get_by_label(label, exact=True)
    def slider(self, label): return self.page.locator('.widget-slider', has_text=label)
    def readout(self, label): return self.slider(label).locator('.widget-readout').inner_text()
    def image(self, title): return self.page.locator(f'img[title^="{title}"]')

    def upload(self, files, nth=0):
        with self.page.expect_file_chooser() as chooser: self.page.locator('button.widget-upload:visible').nth(nth).click()
        chooser.value.set_files(files)

    @property
    def status(self): return self.page.locator('.atvg-status').first.inner_text()

    def says(self, pattern):
        "Wait until the status line says something."
        self.page.wait_for_function('p => { const s = document.querySelector(".atvg-status"); return s && new RegExp(p).test(s.innerText) }', arg=pattern)
        return self.status

    def until(self, true, seconds=PATIENCE/1000):
        "Wait until something is true of the page."
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f'not within {seconds:.0f} s; the page says: {self.status}'
            self.page.wait_for_timeout(50)

    def keys(self, label, key, n=1):
        "Move a slider by keyboard."
        handle = self.slider(label).locator('.noUi-handle')
        handle.focus()
        for _ in range(n): self.page.keyboard.press(key)

    def at(self, label, value):
        "Whether a slider stands at a value; if not, it is moved one step there: on a busy machine the kernel's answer may take a step back."
        now = lambda: float(self.readout(label))
        if now() != value: self.keys(label, 'ArrowRight' if now() < value else 'ArrowLeft')
        return now() == value

    def pixels(self, title, box=(0, 0, 1, 1)):
        "Grey values of a part of a picture: left, top, right, bottom as shares."
        return self.image(title).evaluate(PIXELS, box)

    def changed(self, title, source):
        "Wait until another picture is shown under the same title."
        self.page.wait_for_function('([t, s]) => { const i = document.querySelector(`img[title^="${t}"]`); return i && i.src != s && i.complete }', arg=[title, source])

    def source(self, title): return self.image(title).get_attribute('src')


PIXELS = '''async (element, [left, top, right, bottom]) => {
    if (element.decode) await element.decode();
    const w = element.naturalWidth || element.videoWidth, h = element.naturalHeight || element.videoHeight;
    const canvas = document.createElement('canvas'); canvas.width = w; canvas.height = h;
    const context = canvas.getContext('2d'); context.drawImage(element, 0, 0);
    const data = context.getImageData(left*w, top*h, (right - left)*w, (bottom - top)*h).data;
    return Array.from({length: data.length/4}, (_, i) => (data[4*i] + data[4*i + 1] + data[4*i + 2])/3);
}'''
SEEK = '''async (video, seconds) => {
    video.pause(); const there = new Promise(done => video.addEventListener('seeked', done, {once: true}));
    video.currentTime = seconds; await there;
}'''
WORD, SAMPLE = '✓ [01]\\.[0-9]+ s of speech', '✓ 6\\.17 s of speech'  # "hello" is shorter than any sentence: no earlier answer fits
MOUTH, BROW = (.3, .68, .7, .95), (.3, 0, .7, .2)


def difference(a, b): return sum(abs(x - y) for x, y in zip(a, b))/len(a)


@pytest.fixture(scope='module')
def lab(browser, server):
    "JupyterLab in a page, and what went wrong in it."
    page, wrong = browser.new_page(), []
    listen(page, wrong)
    page.goto(server[0]('lab?reset'), wait_until='commit')
    page.wait_for_function('window.jupyterapp && window.jupyterapp.shell')
    page.evaluate('() => window.jupyterapp.restored')
    yield page, wrong
    assert not page.locator('.Toastify__toast').count(), 'JupyterLab asks about its news'


def listen(page, wrong):
    "Collect errors; what Voila's template fetches from elsewhere, icons and fonts, may be missing without a network."
    ours = lambda message: re.match('(blob:)?http://127.0.0.1', message.location.get('url') or 'http://127.0.0.1')
    page.on('pageerror', lambda error: wrong.append(str(error)))
    page.on('console', lambda message: wrong.append(f'{message.text} {message.location.get("url")}') if message.type == 'error' and ours(message) else None)


OPEN = """async path => {
    const widget = await window.jupyterapp.commands.execute('docmanager:open', {path, factory: 'Notebook'});
    const context = widget.sessionContext; await widget.context.ready; await context.ready; await context.session.kernel.info;
    window.jupyterapp.commands.execute('notebook:run-all-cells');
}"""
IDLE = "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'"
CLOSE = """async () => {
    await window.jupyterapp.commands.execute('docmanager:save');
    await window.jupyterapp.commands.execute('application:close-all');
}"""


@pytest.fixture
def open_demo(lab, server):
    "Opens a demo in JupyterLab, all its cells run; in the end the kernel comes to rest and is ended, and nothing may have gone wrong in the page."
    page, wrong = lab
    def show(name):
        page.evaluate(OPEN, f'{name}.ipynb')
        page.wait_for_selector('.atvg-status')
        return Demo(page)
    yield show
    page.wait_for_function(IDLE)
    page.evaluate(CLOSE)
    shut_down(server[2])
    seen = wrong[:]; wrong.clear()
    assert not seen, seen


def shut_down(ask):
    for session in json.loads(ask('api/sessions')): ask(f'api/sessions/{session["id"]}', 'DELETE')


def test_see_speech(open_demo):
    demo = open_demo('30_demo_speech')
    demo.says(SAMPLE)
    window = demo.source('28 rows')
    demo.keys('video frame', 'ArrowRight', 9)
    demo.until(lambda: demo.at('video frame', 9))
    demo.changed('28 rows', window)
    demo.page.wait_for_function('document.querySelector("audio")?.duration > 1')

    demo.field('Speech').select_option('a typed sentence')
    demo.field('sentence').fill('hello'); demo.field('sentence').press('Enter')
    demo.says(WORD)
    whole = demo.source('Waveform')
    demo.field('noise').select_option('white')
    demo.changed('Waveform', whole)

    demo.field('Speech').select_option('upload a recording')
    demo.upload(PORTRAIT)
    assert 'portrait.png' in demo.says('✗')
    demo.upload(SPEECH)
    demo.says(SAMPLE)


def test_puppeteer(open_demo):
    demo = open_demo('31_demo_puppeteer')
    demo.says('✓ Drag')
    frame, maps = "VG-net's frame", ['The 68 landmarks', 'Where the motion map is used', 'The motion map']
    mouth, brow, others = demo.pixels(frame, MOUTH), demo.pixels(frame, BROW), [demo.pixels(title) for title in maps]
    moved = lambda: difference(demo.pixels(frame, MOUTH), mouth)
    demo.button('ah').click()
    demo.until(lambda: moved() > 3 and moved() > 2*difference(demo.pixels(frame, BROW), brow))
    demo.until(lambda: all(difference(demo.pixels(title), before) > .1 for title, before in zip(maps, others)))
    demo.button('Reset').click()
    demo.until(lambda: moved() < .01)

    demo.image(frame).evaluate('i => { window.drawn = 0; new MutationObserver(() => window.drawn++).observe(i.parentElement, {childList: true}) }')
    demo.keys('h1', 'ArrowRight', 20)
    def followed():
        "Drawn while it moves; a slow machine skips poses, so it is moved to and fro until three have been seen."
        demo.keys('h1', 'ArrowLeft' if float(demo.readout('h1')) > 2 else 'ArrowRight')
        return demo.page.evaluate('window.drawn') >= 3
    demo.until(followed)
    demo.until(lambda: moved() > 1)
    demo.says('poses a second')

    demo.field('Portrait').select_option('upload a picture')
    demo.upload([dict(name='notes.txt', mimeType='text/plain', buffer=b'dear diary')])
    assert 'notes.txt is not a picture' in demo.says('✗')
    demo.upload(PORTRAIT)
    demo.says('✓ Drag')


def talk(demo):
    "Type, generate, watch."
    demo.says('✓ Press Generate')
    assert demo.button('Save').is_disabled()
    demo.field('sentence').fill('hello'); demo.field('sentence').press('Enter')
    seconds = float(re.search('([0-9.]+) s of speech', demo.says(WORD))[1])
    demo.keys('gain', 'ArrowRight', 10)
    demo.until(lambda: demo.at('gain', 1.5))
    demo.page.evaluate('''() => { window.stages = new Set(); window.disabled = false;
        window.observer = new MutationObserver(() => { window.stages.add(document.querySelector(".atvg-status").innerText.replace(/[^a-z]/g, ""));
            window.disabled ||= [...document.querySelectorAll("button.widget-button")].some(b => b.innerText.trim() == "Generate" && b.disabled) });
        window.observer.observe(document.body, {subtree: true, childList: true, characterData: true, attributes: true}) }''')
    demo.button('Generate').click()
    demo.says('✓.*frames')
    demo.page.evaluate('window.observer.disconnect()')
    assert {'landmarks', 'frames', 'storyboard'} <= set(demo.page.evaluate('[...window.stages]')) and demo.page.evaluate('window.disabled')

    video = demo.page.locator('video')
    demo.page.wait_for_function('document.querySelector("video")?.readyState >= 2')
    assert video.evaluate('v => [v.videoWidth, v.videoHeight]') == [128, 128]
    assert abs(video.evaluate('v => v.duration') - seconds) < .1
    video.evaluate('v => { v.muted = true; v.currentTime = 0; return v.play() }')
    demo.page.wait_for_function('document.querySelector("video").currentTime > .2')
    shots = []
    for share in (.02, .25, .4, .55, .7):
        video.evaluate(SEEK, share*seconds)
        shots.append([video.evaluate(PIXELS, box) for box in (MOUTH, BROW)])
    moved = [max(difference(shot[k], shots[0][k]) for shot in shots[1:]) for k in (0, 1)]
    assert moved[0] > 2 and moved[0] > 2*moved[1]
    assert demo.image('Frames, motion').evaluate('i => i.naturalWidth') > 600


def test_talk(open_demo, server):
    demo = open_demo('32_demo_talk')
    talk(demo)
    demo.button('Save').click()
    demo.says('✓ Saved as talking.mp4')
    assert (server[1]/'talking.mp4').read_bytes()[4:8] == b'ftyp'

    demo.field('Portrait').select_option('upload a picture')
    demo.upload([dict(name='notes.png', mimeType='image/png', buffer=b'dear diary')])
    assert 'notes.png is not a picture' in demo.says('✗')
    demo.upload([dict(name='film.png', mimeType='image/png', buffer=bytes(LIMIT + 4_000_000))])
    assert 'up to 8 MB' in demo.says('✗ film.png')
    demo.upload(PORTRAIT)
    demo.says('✓')
    demo.field('Speech').select_option('upload a recording')
    demo.upload(PORTRAIT, 1)
    assert 'portrait.png' in demo.says('✗')
    demo.upload(SPEECH, 1)
    demo.says(SAMPLE)


def test_talk_as_a_page(browser, server):
    page, wrong = browser.new_page(), []
    listen(page, wrong)
    page.goto(server[0]('voila/render/32_demo_talk.ipynb'), wait_until='commit')
    page.wait_for_selector('.atvg-status')
    assert not page.locator('text=import TalkPage').count()
    talk(Demo(page))
    page.close()
    assert not wrong, wrong


def test_inside_the_frame(open_demo):
    demo = open_demo('33_demo_inside')
    demo.says('Press "Make the film"')
    demo.field('says').fill('hello'); demo.field('says').press('Tab')
    demo.button('Make the film').click()
    demo.says('….*tiny judge')
    demo.says('✓ Scrub')
    frame = demo.source('The generated frame')
    demo.keys('video frame', 'ArrowRight', 8)
    demo.until(lambda: demo.at('video frame', 8) and 'Frame 8: pixel loss' in demo.status)
    demo.changed('The generated frame', frame)
    distance = lambda: difference(demo.pixels('Attention plus', BROW), demo.pixels('Light is 1', BROW))
    demo.until(lambda: distance() > 15)
    demo.keys('β', 'ArrowLeft', 10)
    demo.until(lambda: demo.at('β', 0) and distance() < 10)
    assert difference(demo.pixels('What the puppet really did', MOUTH), demo.pixels('The generated frame', MOUTH)) > 0


def test_train_it_yourself(open_demo):
    demo = open_demo('34_demo_train')
    demo.says('Press Start')
    demo.button('Start').click()
    demo.says('… step [0-9]+: pixels')
    loss = demo.source('The losses')
    demo.changed('The losses', loss)
    demo.keys('learning rate', 'ArrowRight', 3)
    demo.until(lambda: demo.at('learning rate', 7.9e-3))
    demo.button('Pause').click()
    steps = int(re.search('Paused after ([0-9]+) steps', demo.says('Paused after'))[1])
    demo.keys('β', 'ArrowLeft', 2)
    demo.button('Go on').click()
    demo.says('… step [0-9]+: pixels')
    demo.button('Pause').click()
    assert int(re.search('Paused after ([0-9]+) steps', demo.says('Paused after'))[1]) > steps
    demo.button('Start over').click()
    demo.says('Press Start')
