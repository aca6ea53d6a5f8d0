#include "gpu/model/safetensors.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/seeds.h"
#include "tests/support/safetensors_writer.h"

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const troupe::test::MemoryFile memory(data, size);
  const auto file = troupe::SafetensorsFile::open(memory.path());
  if (!file.ok()) {
    if (file.error().message.empty()) std::abort();
    return 0;
  }
  int64_t total = 0;
  for (const auto& [name, view] : (*file)->tensors()) {
    int64_t elements = 1;
    for (const int64_t d : view.shape) elements *= d;
    if (elements * troupe::block_bytes(view.dtype) != view.bytes) std::abort();
    total += view.bytes;  // disjoint, so all together they fit the file
    if (view.bytes == 0) continue;
    volatile std::byte seen = view.data[0];
    seen = view.data[view.bytes - 1];
    (void)seen;
  }
  if (total > static_cast<int64_t>(size)) std::abort();
  return 0;
}

std::vector<std::string> troupe::test::fuzz_seeds() {
  SafetensorsWriter w;
  w.tensor("model.embed_tokens.weight", "F32", {4, 2}, std::string(32, 'a'));
  w.tensor("model.norm.weight", "BF16", {2}, std::string(4, 'b'));
  w.tensor("scalar", "F16", {}, std::string(2, 'c'));
  w.tensor("ids", "I8", {2}, "dd");
  w.tensor("empty", "F32", {0, 7}, "");
  return {
      w.bytes(), safetensors_bytes("{}", ""),
      safetensors_bytes(R"({"a":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}  )", "0123")};
}
