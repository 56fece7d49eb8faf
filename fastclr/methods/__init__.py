"""What is trained: the networks, and one file per method that takes views to a loss."""

from fastclr.methods.autoencoder import Autoencoder, AutoencoderOptions
from fastclr.methods.barlow_twins import BarlowTwins, BarlowTwinsOptions
from fastclr.methods.base import Facts, Method, ViewPlan, Views
from fastclr.methods.blip_itc import BLIPITC, BLIPOptions
from fastclr.methods.byol import BYOL, BYOLOptions
from fastclr.methods.clip import CLIP, CLIPOptions
from fastclr.methods.coca import CoCa, CoCaOptions
from fastclr.methods.context import Context, ContextOptions
from fastclr.methods.cpc import CPC, CPCOptions
from fastclr.methods.dcl import DCL, DCLOptions
from fastclr.methods.dino import DINO, DINOOptions
from fastclr.methods.gan import GAN, GANOptions
from fastclr.methods.groups import Group, parameter_groups
from fastclr.methods.jigsaw import Jigsaw, JigsawOptions
from fastclr.methods.lejepa import LeJEPA, LeJEPAOptions
from fastclr.methods.moco import MoCo, MoCoOptions
from fastclr.methods.moco_v1 import MoCoV1, MoCoV1Options
from fastclr.methods.moco_v3 import MoCoV3, MoCoV3Options
from fastclr.methods.options import MethodOptions, ModelOptions
from fastclr.methods.pirl import PIRL, PIRLOptions
from fastclr.methods.rotation import Rotation, RotationOptions
from fastclr.methods.siglip import SigLIP, SigLIPOptions
from fastclr.methods.simclr import SimCLR, SimCLROptions
from fastclr.methods.simsiam import SimSiam, SimSiamOptions
from fastclr.methods.sup_con import SupCon, SupConOptions
from fastclr.methods.supervised import Supervised, SupervisedOptions
from fastclr.methods.vicreg import VICReg, VICRegOptions

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "dcl": DCL,
    "supcon": SupCon,
    "moco-v1": MoCoV1,
    "moco-v2": MoCo,
    "moco-v3": MoCoV3,
    "cpc": CPC,
    "pirl": PIRL,
    "byol": BYOL,
    "simsiam": SimSiam,
    "barlow": BarlowTwins,
    "vicreg": VICReg,
    "dino": DINO,
    "lejepa": LeJEPA,
    "clip": CLIP,
    "siglip": SigLIP,
    "blip-itc": BLIPITC,
    "coca": CoCa,
    "rotation": Rotation,
    "jigsaw": Jigsaw,
    "context": Context,
    "autoencoder": Autoencoder,
    "gan": GAN,
    "supervised": Supervised,
}
"""The class of each method, by the name that ``--method`` and `fastclr.pretrain` take."""

__all__ = [
    "BLIPITC",
    "BYOL",
    "CLIP",
    "CPC",
    "DCL",
    "DINO",
    "GAN",
    "METHODS",
    "PIRL",
    "Autoencoder",
    "AutoencoderOptions",
    "BLIPOptions",
    "BYOLOptions",
    "BarlowTwins",
    "BarlowTwinsOptions",
    "CLIPOptions",
    "CPCOptions",
    "CoCa",
    "CoCaOptions",
    "Context",
    "ContextOptions",
    "DCLOptions",
    "DINOOptions",
    "Facts",
    "GANOptions",
    "Group",
    "Jigsaw",
    "JigsawOptions",
    "LeJEPA",
    "LeJEPAOptions",
    "Method",
    "MethodOptions",
    "MoCo",
    "MoCoOptions",
    "MoCoV1",
    "MoCoV1Options",
    "MoCoV3",
    "MoCoV3Options",
    "ModelOptions",
    "PIRLOptions",
    "Rotation",
    "RotationOptions",
    "SigLIP",
    "SigLIPOptions",
    "SimCLR",
    "SimCLROptions",
    "SimSiam",
    "SimSiamOptions",
    "SupCon",
    "SupConOptions",
    "Supervised",
    "SupervisedOptions",
    "VICReg",
    "VICRegOptions",
    "ViewPlan",
    "Views",
    "parameter_groups",
]
