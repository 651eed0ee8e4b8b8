"""Every environment variable: its names, limits and errors."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from jetface.heads.families import FAMILIES
from jetface.settings import (
    SECRET_FIELDS,
    Settings,
    SettingsError,
    allowed_values,
    read_settings,
    remarks,
    variable_names,
)

BAD_VALUES = [
    ("MODEL_PRELOAD", "maybe", "0 or 1"),
    ("MODEL_DOWNLOAD", "2", "0 or 1"),
    ("DET_MODEL", "../det", "registry name, auto or none"),
    ("DET_NAME", "a b", "registry name, auto or none"),
    ("REC_MODEL", "-x", "registry name, auto or none"),
    ("GA_MODEL", "a/b", "registry name or none"),
    ("MASK_DETECTOR", "a/b", "registry name or none"),
    ("LIVENESS_MODEL", "fasnet_2.7,../x", "one or two registry names, comma between them, or none"),
    ("LIVENESS_MODEL", "a,b,c", "one or two registry names, comma between them, or none"),
    ("MAX_SIZE", "640", "width,height, from 32 to 8192, rounded down to multiples of 32"),
    ("MAX_SIZE", "640,8224", "width,height, from 32 to 8192, rounded down to multiples of 32"),
    ("MAX_SIZE", "640,640,640", "width,height, from 32 to 8192, rounded down to multiples of 32"),
    ("MAX_UPSCALE", "0.9", "number from 1, or inf"),
    ("MAX_UPSCALE", "nan", "number from 1, or inf"),
    ("MAX_SIZE", "31,640", "width,height, from 32 to 8192, rounded down to multiples of 32"),
    ("DET_SCALES", "0.5", "comma list of 1 to 4 numbers: 1, then fractions between 0 and 1"),
    ("DET_SCALES", "1,2", "comma list of 1 to 4 numbers: 1, then fractions between 0 and 1"),
    ("DET_SCALES", "1,.5,.4,.3,.2", "comma list of 1 to 4 numbers: 1, then fractions between 0 and 1"),
    ("MAX_FACES", "0", "integer from 1 to 16384"),
    ("BACKEND", "cuda", "auto, onnxruntime, openvino or tensorrt"),
    ("INFERENCE_BACKEND", "triton", "auto, onnxruntime, openvino or tensorrt"),
    ("DEF_DET_THRESH", "1.5", "number from 0 to 1, or empty"),
    ("DEF_DET_THRESH", "nan", "number from 0 to 1, or empty"),
    ("MAX_BODY_BYTES", "64 MiB", "integer from 1024"),
    ("REQUEST_TIMEOUT_S", "0", "number above 0 to 3600"),
    ("SHUTDOWN_GRACE_S", "inf", "number above 0 to 3600"),
    ("URL_FETCH", "yes", "off, public or allow-list"),
    ("URL_ALLOW_HOSTS", "http://a.b/", "comma list of hosts, *.domains, addresses and networks, or empty"),
    ("ROOT_PATH", "faces", "path such as /faces, or empty"),
    ("ROOT_PATH", "/faces?x", "path such as /faces, or empty"),
    ("KEEP_ALIVE_S", "0", "integer from 1 to 3600"),
    ("FORWARDED_ALLOW_IPS", "proxy.example", "comma list of addresses and networks, *, or empty"),
    ("FORWARDED_ALLOW_IPS", "10.0.0.1/8", "comma list of addresses and networks, *, or empty"),
    ("FORWARDED_ALLOW_IPS", "*,10.0.0.0/8", "comma list of addresses and networks, *, or empty"),
    ("URL_ALLOW_HOSTS", "a.*.b", "comma list of hosts, *.domains, addresses and networks, or empty"),
    ("GALLERY_INDEX", "hnsw", "exact, faiss or cuda"),
    ("HOST", "two words", "address"),
    ("PORT", "http", "integer from 1 to 65535"),
    ("PORT", "70000", "integer from 1 to 65535"),
    ("LOG_LEVEL", "loud", "DEBUG, INFO, WARNING, ERROR or CRITICAL"),
    ("LOG_FORMAT", "xml", "text or json"),
]


class TestReadSettings:
    """The environment, read once."""

    @pytest.mark.parametrize(("variable", "value", "allowed"), BAD_VALUES)
    def test_a_bad_value_is_one_line(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, allowed: str
    ) -> None:
        """The line names the variable as it was set, its value, and what is allowed."""
        monkeypatch.setenv(variable, value)
        with pytest.raises(SettingsError) as error:
            read_settings()
        assert str(error.value) == f"{variable}={value!r} is not allowed: {allowed}"

    def test_several_bad_values_are_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody has to restart once per mistake."""
        monkeypatch.setenv("PORT", "x")
        monkeypatch.setenv("LOG_FORMAT", "y")
        with pytest.raises(SettingsError, match=r"^PORT='x' is .*; LOG_FORMAT='y' is [^\n]*$"):
            read_settings()

    @pytest.mark.parametrize("value", ["a.example", "https://a.example/", "https://A.example", "null", "https://*"])
    def test_an_origin_that_no_browser_sends(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        """One with a path or a capital would never match, and nobody would know why."""
        monkeypatch.setenv("CORS_ORIGINS", value)
        with pytest.raises(SettingsError, match=r"^CORS_ORIGINS=.* is not allowed: comma list of origins"):
            read_settings()

    @pytest.mark.parametrize("value", ["-1", "cuda:0", "all", "0 1", "GPU"])
    def test_a_gpu_that_nothing_numbers_so(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        """CUDA would show none at all, and say nothing."""
        monkeypatch.setenv("GPU_DEVICE_IDS", value)
        with pytest.raises(SettingsError, match=r"^GPU_DEVICE_IDS=.* is not allowed: comma list of numbers"):
            read_settings()

    def test_a_bad_key_is_not_repeated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was meant to be secret stays out of the message."""
        monkeypatch.setenv("API_KEYS", "hunter2,schlüssel")
        with pytest.raises(SettingsError) as error:
            read_settings()
        assert str(error.value) == "API_KEYS='...' is not allowed: comma list of ASCII words, or empty"

    def test_an_index_is_for_a_gallery_in_a_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GALLERY_URL", "postgresql://db/people")
        monkeypatch.setenv("GALLERY_INDEX", "faiss")
        with pytest.raises(SettingsError, match="GALLERY_INDEX is for GALLERY_DIR"):
            read_settings()

    @pytest.mark.parametrize("field", Settings.model_fields)
    def test_set_but_empty_is_not_set(self, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
        """`PORT=` in an env file means the default."""
        for variable in variable_names(field):
            monkeypatch.setenv(variable, "")
        assert read_settings() == Settings()

    @pytest.mark.parametrize(
        ("variable", "value", "field", "expected"),
        [
            ("MODELS_DIR", "/weights", "models_dir", Path("/weights")),
            ("MAX_SIZE", "1280, 704", "max_size", (1280, 704)),
            ("DET_SCALES", "1", "det_scales", (1.0,)),
            ("MAX_UPSCALE", "inf", "max_upscale", math.inf),
            ("ORT_PROVIDERS", "CUDAExecutionProvider, CPUExecutionProvider,", "ort_providers",
             ("CUDAExecutionProvider", "CPUExecutionProvider")),
            ("MODEL_PRELOAD", "1", "model_preload", True),
            ("LOG_LEVEL", "debug", "log_level", "DEBUG"),
            # As InsightFace-REST's compose files write them.
            ("INFERENCE_BACKEND", "trt", "backend", "tensorrt"),
            ("INFERENCE_BACKEND", "onnx", "backend", "onnxruntime"),
            ("MAX_SIZE", "650,490", "max_size", (640, 480)),
            ("NUM_WORKERS", "6", "workers", 6),
            ("LOG_LEVEL", "CRITICAL", "log_level", "CRITICAL"),
            ("DET_NAME", "scrfd_10g_gnkps", "det_model", "scrfd_10g_gnkps"),
            ("REC_NAME", "glintr100", "rec_model", "glintr100"),
            ("GA_NAME", "genderage_v1", "ga_model", "genderage_v1"),
            ("MASK_DETECTOR", "None", "mask_model", "none"),
            ("LIVENESS_MODEL", "fasnet_2.7, fasnet_4.0", "liveness_model", ("fasnet_2.7", "fasnet_4.0")),
            ("DEF_EXTRACT_GA", "True", "def_extract_ga", True),
            ("DEF_DETECT_MASKS", "True", "def_detect_masks", True),
            ("DEF_EXTRACT_EMBEDDING", "False", "def_extract_embedding", False),
            ("DEF_RETURN_FACE_DATA", "True", "def_return_face_data", True),
            ("DEF_DET_THRESH", "0.5", "def_det_thresh", 0.5),
            ("DET_BATCH_SIZE", "1", "det_batch_size", 1),
            ("REC_BATCH_SIZE", "4", "rec_batch_size", 4),
            ("METRICS_OPEN", "1", "metrics_open", True),
            ("GPU_DEVICE_IDS", "0, 3,GPU-5f1c-00,MIG-GPU-5f/1/0", "gpu_device_ids",
             ("0", "3", "GPU-5f1c-00", "MIG-GPU-5f/1/0")),
            ("ROOT_PATH", "/faces/v1/", "root_path", "/faces/v1"),
            ("ROOT_PATH", "/", "root_path", ""),
            ("FORWARDED_ALLOW_IPS", "10.0.0.0/8, ::1", "forwarded_allow_ips", ("10.0.0.0/8", "::1")),
            ("FORWARDED_ALLOW_IPS", "*", "forwarded_allow_ips", ("*",)),
            ("CORS_ORIGINS", "https://a.example, http://[::1]:8080, *", "cors_origins",
             ("https://a.example", "http://[::1]:8080", "*")),
        ],
    )  # fmt: skip
    def test_a_good_value_arrives(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, field: str, expected: object
    ) -> None:
        """Text becomes the value the code works with."""
        monkeypatch.setenv(variable, value)
        assert getattr(read_settings(), field) == expected

    def test_our_name_wins_over_the_old_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With both set, the documented one counts."""
        monkeypatch.setenv("DET_NAME", "old")
        monkeypatch.setenv("DET_MODEL", "new")
        assert read_settings().det_model == "new"

    @pytest.mark.parametrize(
        ("variables", "expected", "variable"),
        [
            ({"GA_MODEL": "None", "GA_NAME": "genderage_v1"}, "genderage_v1", "GA_NAME"),
            ({"GA_MODEL": "mine", "GA_NAME": "genderage_v1"}, "mine", "GA_MODEL"),
            ({"GA_MODEL": "None", "GA_NAME": ""}, "none", "GA_MODEL"),
            ({"GA_MODEL": "mine", "GA_NAME": "None"}, "mine", "GA_MODEL"),
            ({}, "none", "GA_MODEL"),
        ],
    )
    def test_a_line_that_nothing_there_read_does_not_win(
        self, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str, variable: str
    ) -> None:
        """InsightFace-REST's env files say GA_MODEL=None, and its code reads GA_NAME."""
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        settings = read_settings()
        assert (settings.ga_model, settings.variable("ga_model")) == (expected, variable)

    def test_what_does_not_mean_what_it_says_is_remarked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"MAX_SIZE": "650,640", "IFR_VERSION": "v0.9.5.0", "TRITON_URI": "localhost:8001"}.items():
            monkeypatch.setenv(name, value)
        assert remarks(read_settings(), os.environ) == [
            "MAX_SIZE=650,640 is rounded down to 640,640: multiples of 32.",
            "Variables of InsightFace-REST that mean nothing here are ignored: IFR_VERSION, TRITON_URI.",
        ]
        assert remarks(read_settings(), {"MAX_SIZE": "640, 640"}) == []

    def test_the_name_with_our_prefix_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Shells set HOST; an address where a number belongs is what Kubernetes says of a service of that name."""
        monkeypatch.setenv("HOST", "my-laptop")
        monkeypatch.setenv("JETFACE_HOST", "127.0.0.1")
        monkeypatch.setenv("JETFACE_PORT", "tcp://10.0.0.1:18080")
        monkeypatch.setenv("DET_MODEL", "new")
        monkeypatch.setenv("JETFACE_DET_NAME", "ours")
        monkeypatch.setenv("JETFACE_MAX_SIZE", "320,320")
        settings = read_settings()
        assert (settings.host, settings.port) == ("127.0.0.1", 18080)
        assert (settings.det_model, settings.max_size) == ("ours", (320, 320))
        monkeypatch.setenv("JETFACE_PORT", "http")
        with pytest.raises(SettingsError, match=r"^JETFACE_PORT='http' is not allowed: integer"):
            read_settings()

    def test_weights_lie_in_the_user_s_cache(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """And never in the folder one happens to be in."""
        monkeypatch.delenv("MODELS_DIR", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert read_settings().models_dir == tmp_path / ".cache/jetface"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert read_settings().models_dir == tmp_path / "cache/jetface"
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        assert read_settings().models_dir == tmp_path / ".cache/jetface"
        monkeypatch.setenv("MODELS_DIR", "~/weights")
        assert read_settings().models_dir == tmp_path / "weights"

    def test_keys_do_not_show(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither str nor repr of the settings holds a key."""
        monkeypatch.setenv("API_KEYS", "hunter2, hunter3")
        settings = read_settings()
        assert "hunter" not in f"{settings} {settings!r}"
        assert [key.get_secret_value() for key in settings.api_keys] == ["hunter2", "hunter3"]

    @pytest.mark.parametrize(
        "value",
        [
            "http://me:hunter2@models.example:8080/faces", "HTTPS://me:hunter%2F2@models.example", "/weights",
            "weights@home", "http://[::1]:8080", "http://127.0.0.1:1/a@b",
        ],
    )  # fmt: skip
    def test_a_mirror_is_a_folder_or_an_address(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        """With a password or without; it does not show."""
        monkeypatch.setenv("MODEL_MIRROR", value)
        settings = read_settings()
        assert settings.model_mirror == value
        assert "hunter" not in f"{settings} {settings!r}"

    @pytest.mark.parametrize(
        "value",
        [
            "ftp://me:hunter2@models.example", "http:/me:hunter2@models.example", "http://me:hunter2/x@models.example",
            "http://me:hunter#2@models.example", "http://me:hunter 2@models.example", "https://", "s3://bucket",
            "http://me:hunter'2\"@models.example", "http://models.example:http", "http://models.example/?key=hunter2",
            "http://me:hunter2@[::1", "http://me:7hunter@models.example:99999",
        ],
    )  # fmt: skip
    def test_a_mirror_that_is_no_address_is_refused_without_its_password(
        self, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        """Taken for a folder it would come up in each line about that folder."""
        monkeypatch.setenv("MODEL_MIRROR", value)
        with pytest.raises(SettingsError, match=r"^MODEL_MIRROR=.* is not allowed: folder, http") as error:
            read_settings()
        assert "hunter" not in str(error.value)

    @pytest.mark.parametrize("value", ["collector:4318", "grpc://me:hunter2@collector:4317", "http://", "/v1/traces"])
    def test_a_collector_has_an_address(self, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", value)
        with pytest.raises(SettingsError, match=r"^OTEL_EXPORTER_OTLP_ENDPOINT=.* is not allowed: http") as error:
            read_settings()
        assert "hunter" not in str(error.value)


class TestFields:
    """What every declared field must have."""

    @pytest.mark.parametrize("field", Settings.model_fields)
    def test_is_documented(self, field: str) -> None:
        """A variable named after the field, a meaning that is a sentence, and what is allowed."""
        assert variable_names(field)[0] == field.upper()
        assert (Settings.model_fields[field].description or "").endswith(".")
        assert allowed_values(field)

    @pytest.mark.parametrize("field", Settings.model_fields)
    def test_is_used(self, field: str) -> None:
        """No variable that does nothing: the composition root or the command line reads it."""
        app = Path(__file__).resolve().parents[2] / "app" / "jetface"
        readers = {*app.glob("*.py"), *(app / "cli").glob("*.py")} - {app / "settings.py"}
        by_family = {family.variable.lower() for family in FAMILIES.values()}
        assert field in by_family or any(f"settings.{field}" in path.read_text(encoding="utf-8") for path in readers)

    def test_secrets_are_secret_types(self) -> None:
        """A field holds `SecretStr` exactly when it is listed as secret."""
        typed = {name for name, info in Settings.model_fields.items() if "SecretStr" in str(info.annotation)}
        assert typed == SECRET_FIELDS
