"""samora_pipeline: label-efficient medical image segmentation with the Segment Anything Model."""

import re
from pathlib import Path

from setuptools import find_packages, setup

_INIT = Path(__file__).parent / "samora_pipeline" / "__init__.py"

# Each lower bound carries its reason.
REQUIREMENTS = [
    "torch>=2.10",  # first release whose weights_only loading has no known bypass (CVE-2026-24747)
    "torchvision>=0.25",  # the release paired with torch 2.10; segment_anything imports it
    "segment-anything>=1.0",  # modeling/ equals the reference repository
    "sam2>=1.1",  # Hiera backbones and the SAM 2 mask decoder
    "SimpleITK>=2.3",  # NRRD, MetaImage, DICOM series
    "nibabel>=5.2",  # works with NumPy 2
    "batchgenerators>=0.25.1",  # works with NumPy 2
    "acvl-utils>=0.2.3,<0.3",  # bounding boxes and connected components; 0.3 is unreleased
    "scikit-image>=0.22",  # contours, SSIM; wheels for Python 3.12
    "pandas>=2.1",  # score tables; copy-on-write semantics
    "tqdm>=4.66",  # progress bars
    "blosc2>=2.5",  # b2nd arrays with per-chunk access
    "safetensors>=0.4.3",  # own weights; loads bfloat16
    "scipy>=1.11",  # distance search and statistics
    "jinja2>=3.1",  # reports; escapes whatever comes from files
    "matplotlib>=3.8",  # progress and overlay pictures; works with NumPy 2
    "h5py>=3.11",  # volumes that are distributed as HDF5 (Synapse, LA); works with NumPy 2
    "Pillow>=10",  # PNG slices as a source of scans
    "numpy>=1.26",  # typing used throughout
    "cattrs>=24.1",  # JSON to dataclasses, unknown keys refused; hooks by function and by generic class
]

EXTRAS = {
    "dicom": ["highdicom>=0.25", "pydicom>=3"],  # DICOM SEG (samora_export labels --format dcm)
    "dask": ["distributed>=2024.1"],  # cases mapped over an existing cluster (--dask ADDRESS)
    # UNETR and Swin UNETR on slices, and whatever else of MONAI's a trainer names; its transformers need einops
    "networks": ["monai>=1.5", "einops>=0.7"],
    "jobqueue": ["dask-jobqueue>=0.9"],  # workers that are jobs (--dask slurm:PARTITION, pbs:QUEUE)
    "tensorboard": ["tensorboard>=2.15"],  # curves for it (--tensorboard); works with NumPy 2
    # The documentation site: mkdocs build --strict
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
    "dev": [
        "pytest>=8",
        "pytest-xdist>=3.6",  # two files of tests at a time
        "ruff>=0.6",
        "mypy>=1.11",
        "import-linter>=2.1",
        "medpy>=0.5.2",  # oracle of the surface distances, never shipped (GPL)
        "monai>=1.5",  # oracle of its convention of surface distances
        "surface-distance>=0.1",  # oracle of its convention of surface distances
        "pynrrd>=1.0",  # independent reader of .seg.nrrd
        "pandas-stubs",
        "types-tqdm",
    ],
    # Larger oracles, whose tests skip without them: NT-Xent, MAE's loss and masks, the projection head; LARS, MAE's ViT
    "oracles": ["lightly>=1.5", "timm>=1.0"],
}

setup(
    name="samora_pipeline",
    version=re.search(r'__version__ = "(.+)"', _INIT.read_text(encoding="utf-8"))[1],
    description="Self-configuring, label-efficient medical image segmentation with SAM (SAMora)",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["samora_pipeline*", "dataset_conversion*", "planners*", "trainers*"]),
    package_data={
        "samora_pipeline": ["*.toml"],
        "samora_pipeline.evaluation": ["*.json"],
        "samora_pipeline.handover": ["*.j2"],
        "samora_pipeline.reporting": ["templates/*"],
        "samora_pipeline.weights": ["*.safetensors", "*.json", "*.md"],
        "dataset_conversion": ["lists/*.json"],
    },
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "samora_convert = dataset_conversion.cli:main",
            "samora_plan_and_preprocess = planners.cli:main",
            "samora_train = trainers.cli:main",
            "samora_study = trainers.study.cli:main",
            "samora_predict = samora_pipeline.inference.cli:main",
            "samora_evaluate = samora_pipeline.evaluation.cli:main",
            "samora_compare = samora_pipeline.reporting.compare_cli:main",
            "samora_report = samora_pipeline.reporting.report_cli:main",
            "samora_weights = samora_pipeline.weights.cli:main",
            "samora_external = samora_pipeline.external.cli:main",
            "samora_label = samora_pipeline.labelling.label_cli:main",
            "samora_suggest = samora_pipeline.labelling.suggest_cli:main",
            "samora_export = samora_pipeline.handover.cli:main",
            "samora_import = samora_pipeline.handover.import_cli:main",
            "samora_doctor = samora_pipeline.doctor.cli:main",
        ]
    },
)
