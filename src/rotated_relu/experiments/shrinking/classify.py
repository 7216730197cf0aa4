"""The program beside an exported network: classifies a picture with nothing but onnxruntime, numpy and Pillow.

Ensures: scores as the network's own pipeline gives them (:mod:`rotated_relu.training.data.decoding`), for pictures that
are RGB or grey, upright or turned; all that it has to know stands in the metadata of the ONNX file.
"""

CLASSIFY = """\
import json, pathlib, sys
import numpy as np, onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(pathlib.Path(__file__).with_name("compact.onnx"))
about = session.get_modelmeta().custom_metadata_map
how, names = (json.loads(about[f"rotated_relu.{key}"]) for key in ("preprocessing", "class_names"))
(height, width), shorter = how["image_size"], how["resize"]
picture = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("L" if len(how["mean"]) == 1 else "RGB")
size = [int(shorter * side / min(picture.size)) for side in picture.size] if shorter else (width, height)
left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
picture = picture.resize(size, Image.Resampling[how["interpolation"].upper()])
pixels = np.array(picture.crop((left, top, left + width, top + height))).reshape(height, width, -1) / 255
batch = ((pixels - how["mean"]) / how["std"]).transpose(2, 0, 1)[None].astype(np.float32)
scores = session.run(None, {session.get_inputs()[0].name: batch})[int(about["rotated_relu.scores"])][0]
for index in scores.argsort()[::-1][:5]:
    print(f"{scores[index]:.5f} {names[index]}")
"""
