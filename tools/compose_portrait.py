#!/usr/bin/env python3
"""Make atvg/samples/portrait.png, the face of nobody: the neutral faces of several people, one video each, averaged.

    python tools/compose_portrait.py GRID/s1/bbaf2n.mkv GRID/s4/swau8a.mkv GRID/others/*.mkv \\
        --shares .8 1.2 1 .15 .7 -o atvg/samples/portrait.png

The videos must show one person each, from the front, before a blue screen, as those of the GRID corpus do.
Each person's most neutral frames are cut out of the blue, warped so that landmarks, outline of the head and
hairline fall on those of the mean face, brought to common colours of skin and hair, and averaged; the shares
keep the result away from the person who is nearest to the mean. Pullover and backdrop are painted.
Nothing is written if dlib's face recognition still takes the result for one of the people.
"""
import argparse
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image, PngImagePlugin
from scipy.ndimage import gaussian_filter, gaussian_filter1d, map_coordinates, median_filter
from scipy.spatial import Delaunay
from skimage.color import lab2rgb, rgb2lab
from skimage.draw import polygon2mask

from atvg.clip import atomic_path, iter_video
from atvg.data import MIRROR
from atvg.landmarks import TEMPLATE, DlibDetector, mouth_openness, similarity, transform_points

WIDTH, HEIGHT, FACE = 360, 440, 176  # px of the picture and of the face from ear to ear
MIDDLE, CHIN = WIDTH/2 - .5, 374  # where its middle and its chin are, px
BACKDROP = np.array([(176, 186, 194), (132, 146, 158)])  # RGB in the middle and in the corners
PULLOVER = np.array((58, 68, 84))
SKIN, HAIR, NECK = (200, 156, 132), (82, 66, 54), (184, 140, 116)  # mean RGB in the picture
ROUND, ABOVE = np.deg2rad(np.arange(-40, 221, 13)), np.deg2rad(np.arange(50, 131, 10))  # rays: outline, hairline
TEXT = {
    'Title': 'Portrait of nobody',
    'Description': 'A face that nobody has: the weighted average, made by computer, of five speakers of the GRID corpus, warped to a '
                   'common shape; pullover and backdrop are painted. It is the sample portrait of atvg, a talking-face generator.',
    'Source': 'The Grid Audio-Visual Speech Corpus, doi 10.5281/zenodo.3625687 (M. Cooke, J. Barker, S. Cunningham, X. Shao), CC BY 4.0; '
              'changes: frames of five speakers cut out, warped, recoloured, averaged, sharpened.',
    'Copyright': 'CC BY 4.0, https://creativecommons.org/licenses/by/4.0/',
    'Software': 'tools/compose_portrait.py',
}
SAME = .6  # distance below which dlib's network takes two faces for one person's
GRID = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), -1).astype(float)


def blur(image, sigma): return gaussian_filter(image, (sigma, sigma, 0)[:image.ndim])
def rays(centre, angles, radii): return centre + np.stack([np.cos(angles), -np.sin(angles)], -1)*np.asarray(radii)[..., None]
def area(polygon, soft=1.): return blur(polygon2mask((HEIGHT, WIDTH), np.asarray(polygon)[:, ::-1]).astype(float), soft)


def sample(image, points):
    "Values of `image` (H,W,C) at `points` (...,2), edges repeated."
    at = [points[..., 1], points[..., 0]]
    return np.stack([map_coordinates(plane, at, order=3, mode='nearest') for plane in image.transpose(2, 0, 1)], -1)


# One person

def neutral_frames(path, n):
    "The `n` frames with the most closed mouth among those with open eyes, and their landmarks: (n,H,W,3), (n,68,2) px."
    frames = list(iter_video(path))
    detect = DlibDetector()
    found = [(frame, faces[0].landmarks) for frame, faces in zip(frames, map(detect, frames)) if faces]
    if len(found) < n: sys.exit(f'{path}: a face was found on {len(found)} frames only.')
    frames, landmarks = map(np.stack, zip(*found))
    eyes = np.linalg.norm(landmarks[:, [37, 38, 43, 44]] - landmarks[:, [41, 40, 47, 46]], axis=-1).mean(1)
    best = np.argsort(np.where(eyes > .95*np.median(eyes), mouth_openness(landmarks), np.inf))[:n]
    return frames[best], landmarks[best]


def cut_out(frame):
    "Colour without the blue of the screen, and alpha, of a frame: (H,W,4) in 0 ... 255 and 0 ... 1."
    frame = frame.astype(float)
    height, width = frame.shape[:2]
    y, x = np.mgrid[-1:1:height*1j, -1:1:width*1j]
    terms = np.stack([x**i*y**j for i in range(4) for j in range(4 - i)], -1)
    blueness = frame[..., 1:].min(-1) - frame[..., 0]
    screen = (blueness > .6*np.percentile(blueness, 90)) & (y < .6)
    for _ in range(3):  # the light falls off towards the corners: a cubic surface through what surely is screen
        backdrop = terms @ np.linalg.lstsq(terms[screen], frame[screen], rcond=None)[0]
        screen = (np.abs(frame - backdrop).max(-1) < 25) & (y < .8)
    alpha = 1 - blueness/np.maximum(backdrop[..., 1:].min(-1) - backdrop[..., 0], 20)
    alpha = ((alpha - .08)/.84).clip(0, 1)
    # half transparent pixels still carry blue: colours come from the solid ones beside them
    solid = blur((alpha > .97).astype(float), 1) > .9
    spread = blur(frame*solid[..., None], 2.5)/np.maximum(blur(solid.astype(float), 2.5), 1e-3)[..., None]
    return np.dstack([np.where(solid[..., None], frame, spread), alpha])


def outline(head, matrix, centre):
    "Radii (len(ROUND),) px at which rays from `centre` leave a head; `matrix` takes px of the picture to px of the frame."
    radii = np.arange(60, 260.)
    alpha = blur(head[..., 3:], 2.5)
    inside = sample(alpha, transform_points(matrix, rays(centre, ROUND[:, None], radii)))[..., 0] > .5
    return np.where(inside.all(1), radii[-1], radii[np.argmin(inside, 1)])


def hairline(head, landmarks, matrix, centre, edge):
    "Radii (len(ABOVE),) px at which rays from `centre` pass from skin, which is redder, to hair; `edge`: where they leave the head."
    redness = rgb2lab(blur(head[..., :3], 1.2).clip(0, 255)/255)[..., 1:2]
    at = lambda radii: sample(redness, transform_points(matrix, rays(centre, ABOVE[:, None], radii)))[..., 0]
    skin = sample(redness, landmarks[[1, 2, 3, 13, 14, 15]]*.75 + landmarks[30]*.25).mean()
    hair = np.median(at(.93*edge[:, None]))
    brow = (centre - transform_points(np.linalg.inv(matrix), landmarks[17:27]))[:, 1].max()
    part = np.linspace(.2, .97, 120)
    hairy = ((at(part*edge[:, None]) - skin)/(hair - skin)).clip(0, 1)
    # where the step from 0 to 1 that fits best is on each ray
    found = median_filter(part[np.cumsum(2*hairy - 1, axis=1).argmin(1)], 5, mode='nearest')
    return np.maximum(gaussian_filter1d(found, 1, mode='nearest')*edge, 1.1*brow/np.sin(ABOVE))


# All together

def mean_shape(shapes, shares):
    "The mean of landmarks (N,68,2) with weights `shares` (N,), made symmetric, its lips closed, in px of the picture."
    mean = np.average([transform_points(similarity(s, TEMPLATE), s) for s in shapes], 0, shares)
    mean = mean - mean.mean(0)
    mean = (mean + mean[MIRROR]*[-1, 1])/2
    mean = (mean - mean[8])*FACE/(mean[16, 0] - mean[0, 0]) + (MIDDLE, CHIN)
    for upper, lower in ((61, 67), (62, 66), (63, 65)):
        middle = (mean[upper, 1] + mean[lower, 1])/2
        mean[upper, 1], mean[lower, 1] = middle - .5, middle + .5
    return mean.astype(float)


def symmetric(radii): return gaussian_filter1d((radii + radii[::-1])/2, 1, mode='nearest')


def warp(heads, landmarks, shape):
    """Heads (N,h,w,4) moved so that landmarks, outline and hairline are those of all: (N,H,W,4), the common outline and
    hairline (n,2) px, and who shows ears and neck (N,) and a forehead (N,)."""
    centre = shape[27:31].mean(0)
    matrices = [similarity(shape, p) for p in landmarks]
    edges = np.stack([outline(h, m, centre) for h, m in zip(heads, matrices)])
    edge_above = [np.interp(ABOVE, ROUND, e) for e in edges]
    lines = np.stack([hairline(h, p, m, centre, e) for h, p, m, e in zip(heads, landmarks, matrices, edge_above)])
    edge, line = symmetric(np.median(edges, 0)), symmetric(np.median(lines, 0))
    border = [(x, y) for x in np.linspace(-60, WIDTH + 60, 5) for y in np.linspace(-90, HEIGHT + 90, 5) if not (0 < x < WIDTH and 0 < y < HEIGHT)]
    anchors = lambda e, l: np.concatenate([rays(centre, ROUND, e), rays(centre, ROUND, 1.25*e), rays(centre, ABOVE, l), border])
    mesh = Delaunay(np.concatenate([shape, anchors(edge, line)]))
    triangle = mesh.find_simplex(GRID)
    weights = np.einsum('hwij,hwj->hwi', mesh.transform[triangle, :2], GRID - mesh.transform[triangle, 2])
    weights = np.concatenate([weights, 1 - weights.sum(-1, keepdims=True)], -1)[..., None]
    warped = []
    for head, points, matrix, e, l in zip(heads, landmarks, matrices, edges, lines):
        nodes = np.concatenate([points, transform_points(matrix, anchors(e, l))])
        warped.append(sample(head, (weights*nodes[mesh.simplices[triangle]]).sum(-2)))
    low = (np.sin(ROUND) < 0) & (np.sin(ROUND) > -.5)
    short = np.abs(edges/edge - 1)[:, low].mean(1) < .12
    bare = np.abs(lines/line - 1).mean(1) < .2
    return np.stack(warped), rays(centre, ROUND, edge), rays(centre, ABOVE, line), short, bare


def balance(heads, zones):
    "Heads (P,H,W,3) whose mean colours in `zones`, pairs (mask (H,W), RGB), are those given."
    log = np.log(heads.clip(0, 255) + 4)
    total = sum(mask for mask, _ in zones) + 1e-6
    gain = 0
    for mask, colour in zones:
        mean = (log*mask[..., None]).sum((1, 2), keepdims=True)/mask.sum()
        gain = gain + (np.log(np.add(colour, 4.)) - mean)*(mask/total)[..., None]
    return np.exp(log + gain) - 4


def agree(heads, everyone, few, shares):
    """Weights (P,H,W): `shares` (P,) where the mask `everyone` (H,W) is 1; elsewhere less for what differs from most, and
    nought where `few` (P,H,W) is."""
    middle = np.nanmedian(np.where(few[..., None] > 0, heads, np.nan), 0)
    odd = np.stack([blur(np.linalg.norm(h - middle, axis=-1), 4) for h in heads])
    weights = (np.exp(-(odd/40)**2) + .02)*few*shares[:, None, None]
    weights = everyone*shares[:, None, None] + (1 - everyone)*weights/weights.sum(0)
    weights = np.stack([blur(w, 3) for w in weights])
    return weights/weights.sum(0)


def sharpen(mean, heads, limits=(2.2, 2., 1.7, 1.4)):
    "`mean` (H,W,3) with the fine detail of its lightness as strong as it is in `heads` (P,H,W,3), at most `limits` times its own."
    lab = rgb2lab(mean.clip(0, 255)/255)
    low, lows = lab[..., 0], np.stack([rgb2lab(h.clip(0, 255)/255)[..., 0] for h in heads])
    for sigma, limit in zip((.8, 1.6, 3.2, 6.4), limits):
        detail, details = low - blur(low, sigma), lows - np.stack([blur(x, sigma) for x in lows])
        strength = lambda x: np.sqrt(blur(x**2, 8))
        wanted = np.sqrt(np.mean([strength(d)**2 for d in details], 0))
        lab[..., 0] += detail*((wanted/(strength(detail) + .01)).clip(1, limit) - 1)
        low, lows = low - detail, lows - details
    return lab2rgb(lab)*255


def even(image, mask, sigma=14, part=.8):
    "`image` (H,W,3) with `part` of the slow changes of hue and saturation under the mask (H,W) taken out."
    lab = rgb2lab(image.clip(0, 255)/255)
    mean = (lab*mask[..., None]).sum((0, 1))/mask.sum()
    slow = blur(lab*mask[..., None], sigma)/(blur(mask, sigma)[..., None] + 1e-6)
    lab[..., 1:] += (part*mask[..., None]*(mean - slow))[..., 1:]
    return lab2rgb(lab)*255


def column(top, start, end):
    "A quadrilateral in the middle: `top` and `end`, half widths in faces, at the height `start` px and the lower end."
    return [(MIDDLE + s*half*FACE, y) for s, half, y in ((-1, end, HEIGHT + 9), (-1, top, start), (1, top, start), (1, end, HEIGHT + 9))]


def dress(picture, shape):
    "Paint a pullover over the lower end of a picture (H,W,3)."
    x, y = GRID[..., 0] - MIDDLE, GRID[..., 1]
    half = .43*FACE
    side = (np.abs(x) - half).clip(0)
    shoulder = CHIN - 4 + 42*(1 - np.exp(-side/60)) + .05*side
    collar = CHIN + 52 - 58*((np.abs(x)/half).clip(0, 1)**2.6)
    above = lambda line: 1/(1 + np.exp(-(y - line)/.7))
    cloth = above(np.where(np.abs(x) < half, collar, shoulder))
    depth = (y - collar).clip(0)
    shade = .72 + .28*np.exp(-((x + 60)/150)**2) - .12*(side/140)
    shade += .05*np.sin(x/31 + y/70 + .4)
    rib = (1 - (np.abs(x)/half).clip(0, 1)**6)*np.exp(-((depth - 8)/1.3)**2)
    shade -= .16*rib
    knit = np.random.default_rng(0).normal(0, 1, picture.shape[:2])
    shade += .035*blur(knit, .7)
    return picture*(1 - cloth[..., None]) + PULLOVER*shade[..., None]*cloth[..., None]


def shade_neck(image, shape):
    "`image` (H,W,3) with the shadow of the chin and of the collar on the neck."
    x, y = GRID[..., 0], GRID[..., 1]
    jaw = np.interp(x, *shape[2:15].T)
    under = blur((y > jaw).astype(float), 1.5)
    shadow = .2*np.exp(-(y - jaw).clip(0)/18) + .25*np.exp(-(CHIN + 52 - y).clip(0)/7) + .12*(np.abs(x - MIDDLE)/(.43*FACE)).clip(0, 1)**3
    return image*(1 - shadow*under)[..., None]


def ear(shape, side):
    "Outline of the ear left (-1) or right (1) in the picture, px."
    t = np.linspace(0, 2*np.pi, 40)
    out, down = 19*np.cos(t), 33*np.sin(t)
    middle = shape[[0, 1] if side < 0 else [16, 15]].mean(0)
    return middle + np.stack([side*(4 + out - .12*down), down + 6], -1)


def backdrop():
    "A soft plain wall (H,W,3), lighter behind the head."
    far = np.linalg.norm((GRID - (MIDDLE, HEIGHT*.45))/(WIDTH*.75, HEIGHT*.75), axis=-1)[..., None].clip(0, 1)
    far = far**2*(3 - 2*far)
    return BACKDROP[0]*(1 - far) + BACKDROP[1]*far


def zones(shape, edge, line):
    "Soft masks (H,W) of the parts of the picture, from landmarks, outline and hairline px."
    y, hull = GRID[..., 1], np.concatenate([shape[:17], shape[26:16:-1]])
    z = SimpleNamespace(face=area(hull, 3), inner=area((hull - hull.mean(0))*.85 + hull.mean(0), 4))
    brows_eyes = [range(36, 42), range(42, 48), [*range(17, 22), 39], [*range(22, 27), 42]]
    z.eyes = np.max([area(shape[part], 3) for part in brows_eyes], 0)
    features = np.maximum(z.eyes, area(shape[48:60], 2))
    z.forehead = area(np.concatenate([line, shape[[1, 15]]]), 4)
    z.hair = blur(area(edge, 0)*(y < shape[0, 1]), 5)*(1 - z.forehead)
    z.skin = np.maximum(z.face, z.forehead*(1 - z.hair))
    z.below = blur((y > shape[4, 1])*(1 - area(shape[:17] + [0, 3], 0)), 4)
    z.throat = z.below*area(column(.3, shape[4, 1], .3))
    z.ears = np.maximum(area(ear(shape, -1)), area(ear(shape, 1)))
    z.plain = np.maximum(np.max([z.skin, area(hull, 1), z.below], 0)*(1 - z.hair)*(1 - features), z.ears)
    middle, upper = shape[27:31].mean(0), np.sin(ROUND) > -.25
    scalp = (edge[upper] - middle)*np.where(np.sin(ROUND[upper]) > 0, 1.08, .93)[:, None] + middle
    z.body = np.max([area(scalp, 2.5), area(hull, 1), z.ears, area(column(.4, shape[4, 1], .44))], 0)
    return z


def mix(heads, alphas, shares, short, bare, shape, z):
    "Colour (H,W,3) and alpha (H,W) of the mixture of `heads` (P,H,W,3)."
    heads = balance(heads, [(z.hair, HAIR), (z.skin + 1e-3*(1 - z.below), SKIN), (z.throat + 1e-3*z.below, NECK)])
    # hair and skin are red before green before blue: what is not is light of the screen
    heads = np.where(z.inner[..., None] > .5, heads, np.minimum.accumulate(heads, axis=-1))
    few = np.where(z.forehead > .1, bare[:, None, None], 1)
    few = np.where(GRID[..., 1] > shape[0, 1], short[:, None, None], few)
    weights = agree(heads, np.maximum(z.face, z.hair), few, shares)
    mean, alpha = (weights[..., None]*heads).sum(0), (weights*alphas).sum(0)
    own = .5 + .5*np.maximum(z.eyes, z.hair)[..., None]  # the rest is averaged with its mirror image
    mean = own*mean + (1 - own)*mean[:, ::-1]
    crisp = np.maximum(z.face, z.hair)[..., None]
    return even(crisp*sharpen(mean, heads) + (1 - crisp)*mean, z.plain), ((alpha - .15)/.75).clip(0, 1)*z.body


def compose(people, shares):
    "The portrait uint8 (H,W,3) of everyone in `people`, pairs (frames, landmarks), mixed in `shares` (P,)."
    shares = np.asarray(shares, float)/sum(shares)
    shape = mean_shape([landmarks.mean(0) for _, landmarks in people], shares)
    heads = np.stack([cut_out(frame) for frames, _ in people for frame in frames])
    warped, edge, line, short, bare = warp(heads, np.concatenate([p for _, p in people]), shape)
    each = lambda x: x.reshape(len(people), -1, *x.shape[1:]).mean(1)
    warped = each(warped)
    mean, alpha = mix(warped[..., :3], warped[..., 3].clip(0, 1), shares, each(short).round(), each(bare).round(), shape, zones(shape, edge, line))
    picture = shade_neck(mean, shape)*alpha[..., None] + backdrop()*(1 - alpha[..., None])
    return dress(picture, shape).clip(0, 255).round().astype(np.uint8)


def resemblance(image, people):
    "Distances (P,) between the portrait and each person in dlib's face recognition."
    import dlib
    models = Path(importlib.util.find_spec('face_recognition_models').origin).parent/'models'
    network = dlib.face_recognition_model_v1(str(models/'dlib_face_recognition_resnet_model_v1.dat'))
    predict = dlib.shape_predictor(str(models/'shape_predictor_68_face_landmarks.dat'))
    detect = DlibDetector()

    def describe(picture):
        box = dlib.rectangle(*[int(x) for x in detect(picture)[0].box])
        return np.array(network.compute_face_descriptor(np.ascontiguousarray(picture), predict(picture, box)))
    return np.array([np.linalg.norm(describe(image) - describe(frames[0])) for frames, _ in people])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('videos', nargs='+', metavar='VIDEO', help='one of each person')
    parser.add_argument('-o', '--output', required=True, metavar='PORTRAIT.png')
    parser.add_argument('--frames', type=int, default=3, metavar='N', help='frames averaged of each person (default: 3)')
    parser.add_argument('--shares', type=float, nargs='+', metavar='S', help='of each person in the mixture (default: equal)')
    args = parser.parse_args()
    shares = args.shares or [1]*len(args.videos)
    if len(shares) != len(args.videos): parser.error('give one share for each video')
    people = [neutral_frames(video, args.frames) for video in args.videos]
    image = compose(people, shares)
    far = resemblance(image, people)
    print('distance to each person:', *far.round(2))
    if far.min() < SAME: sys.exit(f'{args.output} is not written: it resembles {args.videos[far.argmin()]}; give that person a smaller share.')
    text = PngImagePlugin.PngInfo()
    for key, value in TEXT.items(): text.add_text(key, value)
    with atomic_path(args.output) as path: Image.fromarray(image).save(path, format='PNG', optimize=True, pnginfo=text)


if __name__ == '__main__': main()
