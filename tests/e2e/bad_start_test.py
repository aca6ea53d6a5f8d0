"""Starts that cannot work: exit code 2 within 10 s, one line that says what is wrong and where."""
import os
import random
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import service
import tiny_model


class BadStartTest(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def start(self, *options, model=service.MODEL, command=(), environment=None):
        port = () if "--port" in options else ("--port", "0")
        program = service.Program(
            [*command, service.BINARY, "serve", str(model), *port, *options], environment)
        self.addCleanup(program.kill_all)
        return program

    def refuse(self, *options, names, **how):
        """The start must fail with a message that has all of `names`."""
        begin = time.monotonic()
        program = self.start(*options, **how)
        code = program.wait_exit()
        self.assertLess(time.monotonic() - begin, 10, program.log())
        self.assertEqual(code, 2, program.log())
        errors = [line for line in program.lines if "error: " in line]
        self.assertTrue(errors, program.log())
        for name in names:
            self.assertIn(str(name), errors[-1])
        self.assertEqual(program.leftovers(), [])
        return errors[-1]

    def accept(self, *options, **how):
        self.start(*options, **how).wait_line(" ready at ")


class BadGgufTest(BadStartTest):
    def setUp(self):
        super().setUp()
        self.gguf = self.folder / "copy.gguf"
        shutil.copyfile(service.MODEL, self.gguf)

    def find(self, text):
        """Where `text` ends in the file."""
        with open(self.gguf, "rb") as file:
            head = file.read(8 << 20)
        return head.index(text) + len(text)

    def patch(self, at, data):
        """Overwrites bytes; returns what was there."""
        with open(self.gguf, "r+b") as file:
            file.seek(at)
            before = file.read(len(data))
            file.seek(at)
            file.write(data)
        return before

    def refuse_patched(self, at, data, names):
        before = self.patch(at, data)
        with self.subTest(data):
            self.refuse("--tp", "1", model=self.gguf, names=[self.gguf, *names])
        self.patch(at, before)

    def test_truncated(self):
        for size in (60 << 20, 3 << 20, 1000, 20, 3, 0):
            with self.subTest(size):
                os.truncate(self.gguf, size)
                self.refuse(model=self.gguf, names=[self.gguf])

    def test_wrong_numbers(self):
        name = b"blk.7.attn_q.weight"
        info = self.find(name)  # dimensions u32, each u64, type u32, offset u64
        self.refuse_patched(0, b"GGUX", [])
        self.refuse_patched(4, struct.pack("<I", 99), ["version"])
        self.refuse_patched(8, struct.pack("<Q", 1 << 60), [])
        self.refuse_patched(info, struct.pack("<I", 77), [name.decode()])
        self.refuse_patched(info + 4, struct.pack("<Q", 577), [name.decode()])
        self.refuse_patched(info + 4, struct.pack("<Q", 1 << 62), [name.decode()])
        self.refuse_patched(info + 20, struct.pack("<I", 250), [name.decode()])
        self.refuse_patched(info + 20, struct.pack("<I", 0), ["overlaps"])  # F32: larger
        self.refuse_patched(info + 24, struct.pack("<Q", 1 << 40), [name.decode()])
        self.refuse_patched(info - 3, b"xyz", ["layers.7.self_attn.q_proj.weight", "missing"])
        self.refuse_patched(self.find(b"general.architecture") + 12, b"llxma", ["llxma"])

    def test_without_tokenizer(self):
        self.refuse_patched(self.find(b"tokenizer.ggml.tokens") - 1, b"z", ["tokenizer.ggml.tokens"])
        self.refuse_patched(self.find(b"tokenizer.ggml.merges") - 1, b"z", ["merges"])

    def test_any_flipped_bit_is_survived(self):
        """Bits in names or texts may go unnoticed; the others must be refused, not crash."""
        self.accept("--in-process", "--tp", "1", model=self.gguf)
        chance = random.Random(3)
        end = self.find(b"output_norm.weight") + 32
        refused = 0
        for _ in range(12):
            at = chance.choice([chance.randrange(2000), chance.randrange(end)])
            before = self.patch(at, b"\0")
            self.patch(at, bytes([before[0] ^ 1 << chance.randrange(8)]))
            program = self.start("--in-process", "--tp", "1", model=self.gguf)
            try:
                program.wait_line(" ready at ")
            except AssertionError:
                refused += 1
                self.assertEqual(program.wait_exit(), 2, f"bit at {at}:\n{program.log()}")
            program.kill_all()
            self.patch(at, before)
        print(f"12 flipped bits: {refused} refused")


class BadSafetensorsTest(BadStartTest):
    NAME = "model.layers.0.self_attn.k_proj.weight"  # messages say it without "model."

    def test_good_model_starts(self):
        self.accept(model=tiny_model.write(self.folder / "good"))

    def test_wrong_dtype_shape_or_none(self):
        file = "model.safetensors"
        for case, how, names in (
                ("dtype", {"dtypes": {self.NAME: "I64"}}, [file, self.NAME, "I64"]),
                ("shape", {"shapes": {self.NAME: [33, 64]}}, [self.NAME, "33"]),
                ("transposed", {"shapes": {self.NAME: [64, 32]}}, [self.NAME]),
                ("missing", {"shapes": {self.NAME: None}}, [self.NAME[6:], "missing"]),
                ("config", {"config": {"hidden_size": 128}}, ["embed_tokens.weight"]),
                ("kind", {"config": {"architectures": ["BertModel"]}}, ["BertModel"]),
                ("mixture", {"config": {"architectures": ["MixtralForCausalLM"]}}, ["Mixtral"])):
            with self.subTest(case):
                self.refuse(model=tiny_model.write(self.folder / case, **how),
                            names=[self.folder / case, *names])

    def test_quantised_in_ways_that_are_not_supported(self):
        group = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
        for case, quantised, what in (
                ("awq", {"quant_method": "awq", "bits": 4}, "AWQ integers of 4 bits"),
                ("gptq", {"quant_method": "gptq", "bits": 4}, "GPTQ integers of 4 bits"),
                ("blocks", {"quant_method": "fp8", "weight_block_size": [128, 128]}, "block of"),
                ("nvfp4", {"quant_method": "modelopt", "quant_algo": "NVFP4"}, "NVFP4"),
                ("int4", {"quant_method": "compressed-tensors",
                          "config_groups": {"group_0": {"weights": group}}}, "4-bit int")):
            with self.subTest(case):
                folder = tiny_model.write(self.folder / case,
                                          config={"quantization_config": quantised})
                self.refuse(model=folder, names=[self.folder / case, "config.json", what,
                                                 "use the unquantised model"])
        folder = tiny_model.write(self.folder / "modelopt")
        (self.folder / "modelopt" / "hf_quant_config.json").write_text(
            '{"quantization": {"quant_algo": "W4A8_AWQ"}}')
        self.refuse(model=folder, names=["hf_quant_config.json", "W4A8_AWQ"])

    def test_missing_or_damaged_files(self):
        for file, text in (("tokenizer.json", None), ("config.json", None),
                           ("model.safetensors", None), ("tokenizer.json", "{"),
                           ("config.json", "[]"), ("config.json", "{}"),
                           ("model.safetensors", "x"), ("model.safetensors", "\xff" * 100)):
            with self.subTest(f"{file}: {text}"):
                folder = tiny_model.write(self.folder / "m")
                if text is None:
                    (folder / file).unlink()
                else:
                    (folder / file).write_text(text)
                # Any *.safetensors would do, so a missing one is not named.
                self.refuse(model=folder, names=[folder, file.removeprefix("model")])
        folder = tiny_model.write(self.folder / "m")
        os.truncate(folder / "model.safetensors", 10_000)
        self.refuse(model=folder, names=[folder / "model.safetensors"])


class BadMachineTest(BadStartTest):
    @unittest.skipIf(Path("/proc/driver/nvidia/version").exists(), "there is an NVIDIA driver")
    def test_gpu_where_there_is_none(self):
        self.refuse("--device", "cuda", names=["--device cpu"])

    def test_missing_file(self):
        self.refuse(model="/nonexistent/model.gguf", names=["/nonexistent/model.gguf"])

    def test_port_in_use(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            self.refuse("--port", str(port), names=[f"port {port} is in use", "--port"])

    def test_mpirun_missing(self):
        self.refuse("--mpirun", "/nonexistent/mpirun",
                    names=["/nonexistent/mpirun", "openmpi-bin", "--mpirun", "--in-process"])

    def test_mpirun_that_fails(self):
        self.refuse("--mpirun", "false", names=["replica 0 did not start", "exit code 1"])

    def test_more_kv_than_the_machine_has(self):
        self.refuse("--kv-tokens", str(1 << 26), names=["MiB", "lower --kv-tokens"])

    def test_one_rank_without_memory(self):
        """Rank 1 alone is short of address space: for its KV pool, its weights, its threads, its
        TLS, the file, down to MPI itself."""
        for kilobytes in (1_000_000, 800_000, 700_000, 600_000, 300_000):
            with self.subTest(kilobytes):
                self.refuse_rank_limited_to(kilobytes)

    def refuse_rank_limited_to(self, kilobytes):
        limit = self.folder / "limit"
        limit.write_text('#!/bin/sh\n'
                         f'[ "$OMPI_COMM_WORLD_RANK" = 1 ] && ulimit -v {kilobytes}\n'
                         'exec "$@"\n')
        wrapper = self.folder / "mpirun"
        wrapper.write_text('#!/bin/bash\n'
                           'for ((i = 1; i <= $#; ++i)); do\n'
                           f'  [[ ${{!i}} == {service.BINARY} ]] &&\n'
                           f'    exec mpirun "${{@:1:i-1}}" {limit} "${{@:i}}"\n'
                           'done\n')
        for script in (limit, wrapper):
            script.chmod(0o755)
        self.refuse("--mpirun", str(wrapper), "--kv-tokens", "262144", names=["memory"])

    def test_no_place_for_the_run_directory(self):
        namespace = ["unshare", "-rm"]
        if subprocess.run([*namespace, "true"], check=False, stderr=subprocess.DEVNULL).returncode:
            self.skipTest("needs user namespaces")
        self.refuse(command=[*namespace, "sh", "-c",
                             'mount -t tmpfs -o ro tmpfs /dev/shm && exec "$@"', "sh"],
                    environment={"TMPDIR": "/nonexistent", "XDG_RUNTIME_DIR": "/nonexistent"},
                    names=["run directory", "/dev/shm", "/nonexistent"])

    def test_no_place_for_the_join_file(self):
        self.refuse("--join-file", "/nonexistent/join.json", names=["/nonexistent/join.json"])


if __name__ == "__main__":
    service.main()
