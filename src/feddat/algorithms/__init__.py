"""Local objectives, one file each; other packages can add more (registry.py)."""

from __future__ import annotations

from feddat.algorithms.apfl import Apfl
from feddat.algorithms.base import Algorithm, Learner, RoundContext
from feddat.algorithms.central import Central
from feddat.algorithms.ditto import Ditto
from feddat.algorithms.fedalt import FedALT
from feddat.algorithms.fedavg import FedAvg
from feddat.algorithms.fedavg_local import FedAvgLocal
from feddat.algorithms.feddat import FedDAT
from feddat.algorithms.feddat_2 import FedDAT2
from feddat.algorithms.feddpa import FedDPA
from feddat.algorithms.feddyn import FedDyn
from feddat.algorithms.fedex_lora import FedExLora
from feddat.algorithms.fedlease import FedLease
from feddat.algorithms.fedmosaic import FedMosaic
from feddat.algorithms.fedper import FedPer
from feddat.algorithms.fedprox import FedProx
from feddat.algorithms.fedrep import FedRep
from feddat.algorithms.fedsa_lora import FedSALora
from feddat.algorithms.ffa_lora import FFALora
from feddat.algorithms.head import Head
from feddat.algorithms.hilora import HiLora
from feddat.algorithms.local import Local
from feddat.algorithms.lora_fair import LoraFair
from feddat.algorithms.moon import Moon
from feddat.algorithms.pfedme import PFedMe
from feddat.algorithms.pfedmma import PFedMma
from feddat.algorithms.registry import Registry
from feddat.algorithms.scaffold import Scaffold

#: All algorithms by name: these, and the algorithms of other installed packages.
ALGORITHMS = Registry(
    (
        FedDAT(),
        FedDAT2(),
        FedAvg(),
        FedAvgLocal(),
        FedProx(),
        Scaffold(),
        FedDyn(),
        Moon(),
        Ditto(),
        Apfl(),
        PFedMe(),
        FedRep(),
        FedPer(),
        FedDPA(),
        FedALT(),
        FedSALora(),
        FFALora(),
        FedExLora(),
        LoraFair(),
        FedMosaic(),
        FedLease(),
        HiLora(),
        PFedMma(),
        Local(),
        Central(),
        Head(),
    )
)

__all__ = ["ALGORITHMS", "Algorithm", "Learner", "RoundContext"]
