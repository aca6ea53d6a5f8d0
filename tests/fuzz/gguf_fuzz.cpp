#include "gpu/model/checkpoint.h"
#include "gpu/model/gguf.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/seeds.h"
#include "tests/support/tiny_model.h"

#include <cstdlib>

namespace {

/// Reads the ends of every accepted tensor: a view that leaves the mapping shows here.
void touch(const troupe::TensorView& view) {
  if (view.bytes <= 0 || view.data == nullptr) std::abort();
  volatile std::byte seen = view.data[0];
  seen = view.data[view.bytes - 1];
  (void)seen;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const troupe::test::MemoryFile file(data, size);
  const auto gguf = troupe::GgufFile::open(file.path());
  if (gguf.ok()) {
    for (const auto& [name, view] : (*gguf)->tensors()) touch(view);
  } else if (gguf.error().message.empty()) {
    std::abort();
  }
  const auto checkpoint = troupe::Checkpoint::open(file.path());
  if (!checkpoint.ok()) return 0;
  if (!gguf.ok() || !troupe::check_config((*checkpoint)->config()).ok()) std::abort();
  touch(*(*checkpoint)->find("embed_tokens.weight"));
  return 0;
}

std::vector<std::string> troupe::test::fuzz_seeds() {
  TinyModel m;
  m.layers = 1;
  m.hidden = 32;
  m.heads = 2;
  m.kv_heads = 1;
  m.ffn = 32;
  m.vocab = 8;  // a short vocabulary leaves more mutations to the rest of the header
  std::vector<std::string> out = {tiny_gguf(m, DType::kQ4_1).bytes()};
  m.architecture = "qwen2";
  m.tied = false;
  out.push_back(tiny_gguf(m, DType::kQ8_0).bytes());
  GgufWriter scaled = tiny_gguf(TinyModel{}, DType::kF16);
  scaled.kv("llama.rope.scaling.type", "yarn");
  scaled.kv("llama.rope.scaling.factor", 4.0F);
  scaled.kv("general.alignment", 32U);
  scaled.kv("bools", std::vector<bool>{true, false});
  scaled.kv("floats", std::vector<float>{1, 2});
  out.push_back(scaled.bytes());
  return out;
}
