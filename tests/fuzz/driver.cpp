// Runs a fuzz target without libFuzzer: the seeds themselves, then a bounded number of mutations of
// them that is the same in every run. With clang the same target links against -fsanitize=fuzzer
// instead of this file. Usage: TARGET [RUNS | FILE...]; a FILE is run as it is, to reproduce.
#include "tests/fuzz/seeds.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

void run(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

class Mutator {
 public:
  std::string mutate(std::string input, const std::string& other) {
    const size_t changes = 1 + below(4);
    for (size_t i = 0; i < changes; ++i) change(input, other);
    return input;
  }
  size_t below(size_t n) { return n == 0 ? 0 : random_() % n; }

 private:
  void change(std::string& s, const std::string& other) {
    if (s.empty()) s = other;
    const size_t at = below(s.size());
    switch (below(8)) {
      case 0: s[at] = static_cast<char>(s[at] ^ (1 << below(8))); break;
      case 1: s[at] = static_cast<char>(below(256)); break;
      case 2: s.resize(at); break;
      case 3: s.erase(at, 1 + below(16)); break;
      case 4: s.insert(at, s.substr(below(s.size()), 1 + below(32))); break;
      case 5: s.insert(at, other.substr(below(other.size()), 1 + below(64))); break;
      default: overwrite(s, at); break;
    }
  }
  /// A number at the edge of some width, over the bytes from `at` on.
  void overwrite(std::string& s, size_t at) {
    static constexpr uint64_t kEdges[] = {0,          1,           7,           32,
                                          0x7f,       0xff,        0x7fff,      0xffff,
                                          0x7fffffff, 0xffffffff,  1ULL << 32,  1ULL << 61,
                                          1ULL << 62, ~0ULL >> 1U, 1ULL << 63U, ~0ULL};
    uint64_t value = kEdges[below(std::size(kEdges))];
    const size_t width = size_t{1} << below(4);
    for (size_t i = 0; i < width && at + i < s.size(); ++i, value >>= 8U) {
      s[at + i] = static_cast<char>(value & 0xffU);
    }
  }

  std::mt19937_64 random_{20240521};
};

}  // namespace

int main(int argc, char** argv) {
  size_t runs = 2000;
  for (int i = 1; i < argc; ++i) {
    char* end = nullptr;
    const unsigned long long n = std::strtoull(argv[i], &end, 10);
    if (*end == '\0') {
      runs = n;
      continue;
    }
    std::ifstream file(argv[i], std::ios::binary);
    run({std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()});
    runs = 0;
  }
  const std::vector<std::string> seeds = troupe::test::fuzz_seeds();
  Mutator mutator;
  for (const std::string& seed : seeds) run(seed);
  for (size_t i = 0; i < runs; ++i) {
    run(mutator.mutate(seeds[i % seeds.size()], seeds[mutator.below(seeds.size())]));
  }
  std::printf("%zu seeds, %zu mutations\n", seeds.size(), runs);
  return 0;
}
