"What `02_landmarks` cannot show: files of every size, the second detector without its download, a machine without OpenCV, geometry to a fraction of a pixel."
import pickle, subprocess, sys, time, types, urllib.error, warnings
import numpy as np, pytest
from PIL import Image
from atvg.clip import InputError, read_image
from atvg.landmarks import (DlibDetector, Face, FaceAlignmentDetector, STABLE, TEMPLATE, canonical_crop, canonical_transform, detect_face,
                            get_detector, mouth_openness, paste_back, similarity, smooth_transforms, transform_points, warp_image)

@pytest.fixture(scope='module')
def photo():
    import skimage.data
    return skimage.data.astronaut()

@pytest.fixture(scope='module')
def face(photo): return detect_face(photo)

@pytest.fixture
def photo_file(photo, tmp_path):
    "The photograph as a file, resized to a width, perhaps in grey: its path, and how many px of the file one of the photograph is."
    def make(width=512, mode='RGB', suffix='jpg'):
        path = tmp_path/f'face{width}{mode}.{suffix}'
        Image.fromarray(photo).convert(mode).resize((width, width), Image.LANCZOS).save(path)
        return path, width/512
    return make

# --- the detector on files

@pytest.mark.parametrize('width, mode, suffix', [(512, 'RGB', 'jpg'), (200, 'RGB', 'png'), (110, 'RGB', 'png'), (1800, 'RGB', 'jpg'), (512, 'L', 'png')])
def test_a_file_of_any_size_gives_the_same_face(photo_file, face, width, mode, suffix):
    path, scale = photo_file(width, mode, suffix)
    found = detect_face(read_image(path)).landmarks
    back = (found+.5)/scale-.5
    # a face of 20 px is known to a pixel of its own, which is five of the photograph
    assert np.linalg.norm(back-face.landmarks, axis=1).mean() < 1.5+.4/scale
    assert found.dtype == np.float32 and found.shape == (68, 2)

def test_the_points_lie_on_the_face_and_are_not_whole_pixels(face):
    left, top, right, bottom = face.box
    assert 80 < face.box[2]-face.box[0] < 100
    assert (np.abs(face.landmarks-face.landmarks.round()) > .05).mean() > .5
    assert ((face.landmarks > [left-15, top-15]) & (face.landmarks < [right+15, bottom+15])).all()

def test_the_canonical_crop_is_found_again(photo, face):
    crop, landmarks, _ = canonical_crop(photo, face.landmarks)
    assert np.linalg.norm(detect_face(crop).landmarks-landmarks, axis=1).mean() < 1

def test_a_moved_picture_has_moved_points(photo, face):
    moved = np.roll(photo, (5, -9), axis=(0, 1))
    assert np.linalg.norm(detect_face(moved).landmarks-face.landmarks-[-9, 5], axis=1).mean() < 1

def test_the_largest_face_is_taken_with_a_warning(photo):
    both = np.zeros((256, 512, 3), np.uint8)
    part = Image.fromarray(photo[:256, 100:356])
    both[:, 256:] = part
    both[:180, :180] = part.resize((180, 180))
    with pytest.warns(UserWarning, match='2 faces found in group.jpg'): assert detect_face(both, name='group.jpg').box[0] > 256
    faces = get_detector()(both)
    assert len(faces) == 2 and faces[0].area > faces[1].area

@pytest.mark.parametrize('shape', [(1, 1, 3), (3, 300, 3), (128, 128, 3), (700, 900, 3)])
def test_no_face_is_one_clear_sentence(shape):
    with pytest.raises(InputError, match='no face found in cat.png .*upright'): detect_face(np.full(shape, 90, np.uint8), name='cat.png')

def test_a_detector_with_loaded_models_still_travels_to_workers(photo):
    detector = DlibDetector(views=1)
    detector(photo[:200, 150:300])
    assert len(pickle.dumps(detector)) < 1000 and pickle.loads(pickle.dumps(detector)).views == 1

def test_missing_model_files_are_told(monkeypatch):
    import importlib.util, atvg.landmarks
    atvg.landmarks._dlib_models.cache_clear()
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match='pip install face_recognition_models'): DlibDetector()(np.zeros((90, 90, 3), np.uint8))
    atvg.landmarks._dlib_models.cache_clear()

def test_an_unknown_name_is_told():
    with pytest.raises(InputError, match='"dlib", "face-alignment"'): get_detector('mediapipe')

# --- face-alignment, without its download

class Network:
    "Answers as face-alignment does: a list of points, their scores, a list of boxes."
    def get_landmarks_from_image(self, image, detected_faces=None, return_bboxes=False, return_landmark_score=False):
        assert return_bboxes and return_landmark_score and image.flags.c_contiguous
        if not image.any():
            warnings.warn('No faces were detected.')
            return None, None, None
        points = np.stack([TEMPLATE, TEMPLATE*2])
        return list(points), [np.ones(68)]*2, [np.array([0, 0, 128, 128, .8]), np.array([0, 0, 256, 256, .9])]

def fake_package(monkeypatch, constructor):
    monkeypatch.setitem(sys.modules, 'face_alignment', types.SimpleNamespace(FaceAlignment=constructor, LandmarksType=types.SimpleNamespace(TWO_D='2D')))

def test_face_alignment_is_made_once_without_compiling(monkeypatch):
    made = []
    def constructor(landmarks_type, device='cuda', compile=True, face_detector='sfd'):
        made.append((landmarks_type, device, compile, face_detector))
        return Network()
    fake_package(monkeypatch, constructor)
    detector = FaceAlignmentDetector(face_detector='blazeface')
    assert not made
    faces = detector(np.ones((300, 300, 3), np.uint8)[:, ::-1])
    detector(np.ones((300, 300, 3), np.uint8))
    assert made == [('2D', 'cpu', False, 'blazeface')]
    assert [f.score for f in faces] == [.9, .8] and isinstance(faces[0], Face)
    np.testing.assert_array_equal(faces[0].landmarks, TEMPLATE*2)

def test_an_older_face_alignment_has_no_compile_switch(monkeypatch):
    fake_package(monkeypatch, lambda landmarks_type, device='cuda': Network())
    assert len(FaceAlignmentDetector()(np.ones((9, 9, 3), np.uint8))) == 2

def test_face_alignment_without_a_face_gives_no_warning_of_its_own():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert FaceAlignmentDetector(model=Network())(np.zeros((9, 9, 3), np.uint8)) == []
    with pytest.raises(InputError, match='no face'): detect_face(np.zeros((9, 9, 3), np.uint8), FaceAlignmentDetector(model=Network()))

def test_face_alignment_feeds_the_same_path(photo):
    with pytest.warns(UserWarning, match='2 faces'): found = detect_face(photo, FaceAlignmentDetector(model=Network()))
    crop, landmarks, _ = canonical_crop(photo, found.landmarks)
    np.testing.assert_allclose(landmarks, TEMPLATE, atol=1e-3)
    assert crop.shape == (128, 128, 3)

def test_face_alignment_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, 'face_alignment', None)
    with pytest.raises(InputError, match=r'atvg\[fan\].*"dlib"'): FaceAlignmentDetector()(np.zeros((9, 9, 3), np.uint8))

def test_face_alignment_weights_out_of_reach(monkeypatch):
    def constructor(landmarks_type, device='cuda', compile=True): raise urllib.error.URLError('no route to host')
    fake_package(monkeypatch, constructor)
    with pytest.raises(InputError, match='weights.*no route to host.*"dlib"'): FaceAlignmentDetector()(np.zeros((9, 9, 3), np.uint8))

# --- a slim machine

def run(code, *args): return subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True)

def test_the_default_path_needs_no_cv2(photo_file):
    code = '''
import sys
for name in ('cv2', 'face_alignment', 'pkg_resources', 'face_recognition_models.foo'): sys.modules[name] = None
from atvg.clip import read_image
from atvg.landmarks import *
picture = read_image(sys.argv[1])
crop, landmarks, matrix = canonical_crop(picture, detect_face(picture).landmarks)
out = paste_back(picture, crop, smooth_transforms([matrix]*9)[4])
assert out.shape == picture.shape and crop.shape == (128, 128, 3) and 'face_recognition_models' not in sys.modules
'''
    done = run(code, photo_file()[0])
    assert done.returncode == 0, done.stderr

def test_importing_is_light():
    heavy = ('torch', 'dlib', 'cv2', 'skimage', 'scipy', 'matplotlib', 'librosa', 'moviepy', 'face_alignment')
    done = run(f'import sys, atvg.landmarks; print([m for m in {heavy} if m in sys.modules])')
    assert done.stdout.strip() == '[]', done.stdout+done.stderr

# --- geometry: a soft dot must land where its point lands

def dot(size, x, y, radius):
    X, Y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    blob = 250*np.exp(-((X-x)**2+(Y-y)**2)/(2*radius**2))
    return np.stack([blob]*3, -1).round().astype(np.uint8)

def centre(image):
    weight = image[..., 0].astype(float); Y, X = np.mgrid[:image.shape[0], :image.shape[1]]
    return np.array([(X*weight).sum(), (Y*weight).sum()])/weight.sum()

def turned(scale, angle, middle, to=(64, 64)):
    "The similarity of a scale and angle that takes `middle` to the middle of the crop."
    R = scale*np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.block([[R, (np.array(to)-R@middle)[:, None]], [np.zeros((1, 2)), np.ones((1, 1))]])

@pytest.mark.parametrize('scale', [.08, .3, .75, .9, 1., 1.4, 2., 5.])
@pytest.mark.parametrize('angle', [0., .3])
def test_pixels_and_points_move_together(scale, angle):
    at = np.array([[401.3, 298.6]])
    matrix = turned(scale, angle, [400, 300])
    crop = warp_image(dot((800, 600), *at[0], 6/scale), matrix)
    assert np.abs(centre(crop)-transform_points(matrix, at)[0]).max() < .03

@pytest.mark.parametrize('scale', [.15, .3, .7, 1., 3.])
def test_pasted_pixels_go_where_points_go(scale):
    matrix = turned(scale, -.2, [400, 300])
    pasted = paste_back(np.zeros((600, 800, 3), np.uint8), dot((128, 128), 60.3, 70.8, max(5, 4*scale)), matrix)
    assert np.abs(centre(pasted)-transform_points(np.linalg.inv(matrix), [[60.3, 70.8]])[0]).max() < .03/min(scale, 1)

def test_the_identity_changes_nothing(photo):
    crop = photo[:128, 180:308]
    np.testing.assert_array_equal(warp_image(crop, np.eye(3)), crop)

def test_a_crop_over_the_edge_repeats_it():
    picture = np.full((60, 60, 3), 200, np.uint8)
    assert (warp_image(picture, turned(1., .4, [0, 0])) == 200).all()
    assert (warp_image(picture, turned(.2, .4, [900, 900])) == 200).all()

def test_shrinking_averages():
    checker = (np.indices((1024, 1024)).sum(0)%2*255).astype(np.uint8)
    crop = warp_image(np.stack([checker]*3, -1), np.diag([.125, .125, 1]))
    # at the picture's own edge, which repeats, black and white need not balance
    assert np.abs(crop[2:-2, 2:-2].astype(int)-127).max() <= 2

# --- pasting into large pictures

def test_only_the_neighbourhood_is_touched_and_it_is_quick(photo, face):
    picture = np.tile(photo, (3, 4, 1))[:1080, :1920]
    matrix = canonical_transform(face.landmarks*3)
    crop = np.full((128, 128, 3), 255, np.uint8)
    times = []
    for _ in range(5):
        start = time.process_time(); out = paste_back(picture, crop, matrix); times.append(time.process_time()-start)
    changed = (out != picture).any(-1)
    corners = transform_points(np.linalg.inv(matrix), [(0, 0), (127, 0), (0, 127), (127, 127)])
    ys, xs = np.nonzero(changed)
    assert (corners.min(0) <= [xs.min(), ys.min()]).all() and ([xs.max(), ys.max()] <= corners.max(0)).all()
    assert (out[tuple(face.landmarks[30].astype(int)[::-1]*3)] == 255).all()
    # about 20 ms on an idle core
    assert min(times) < .1

@pytest.mark.parametrize('middle', [(-200, -200), (0, 300), (799, 599), (3000, 300)])
def test_pasting_at_and_beyond_the_border(middle):
    picture = np.full((600, 800, 3), 50, np.uint8)
    out = paste_back(picture, np.full((128, 128, 3), 255, np.uint8), turned(.5, .1, middle))
    inside = 0 <= middle[0] < 800 and 0 <= middle[1] < 600
    assert out.shape == picture.shape and (picture == 50).all()
    assert (out.max() == 255) == inside

# --- similarities

def test_similarities_undo_each_other():
    rng = np.random.default_rng(0)
    for _ in range(20):
        M = turned(rng.uniform(.1, 9), rng.uniform(-3, 3), rng.uniform(-500, 500, 2))
        np.testing.assert_allclose(similarity(TEMPLATE, transform_points(M, TEMPLATE)), M, atol=2e-3)
        np.testing.assert_allclose(canonical_transform(transform_points(M, TEMPLATE))@M, np.eye(3), atol=2e-3)

def test_speech_and_blinks_do_not_move_the_crop():
    face = TEMPLATE.copy()
    face[48:] += np.random.default_rng(0).normal(0, 5, (20, 2)); face[:17, 1] += 8; face[17:27, 1] -= 4; face[[37, 38, 43, 44], 1] += 5
    np.testing.assert_allclose(canonical_transform(face), np.eye(3), atol=1e-5)
    assert set(STABLE) <= {27, 28, 29, 30, 36, 39, 42, 45}

def test_smoothing_follows_a_nod_and_drops_the_jitter():
    rng = np.random.default_rng(0); t = np.arange(100)/25
    true = np.stack([turned(1+.02*np.sin(t_), .1*np.sin(3*t_), [64+9*np.sin(2*t_), 64]) for t_ in t])
    noisy = true+rng.normal(0, 1, (100, 3, 3))*np.array([[.004, .004, .4], [.004, .004, .4], [0, 0, 0]])
    nose = lambda m: transform_points(m, TEMPLATE[30:31])[:, 0]
    error = lambda m: (nose(m)-nose(true)).std()
    assert error(smooth_transforms(noisy)) < .55*error(noisy)
    assert error(smooth_transforms(true)) < .1
    np.testing.assert_array_equal(smooth_transforms(noisy, 1), noisy)
    assert smooth_transforms(noisy[:2]).shape == (2, 3, 3)

def test_the_lip_gap_counts_pixels():
    face = TEMPLATE.copy()
    face[60:68] = [(0, 0), (1, 5), (2, 5), (3, 5), (4, 0), (3, 9), (2, 8), (1, 7)]
    assert mouth_openness(face) == pytest.approx(3)
    assert mouth_openness(np.stack([face]*4)[None]).shape == (1, 4)
