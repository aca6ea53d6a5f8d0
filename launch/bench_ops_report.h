#pragma once

#include <cstdint>
#include <string>
#include <vector>

/// Inside of bench_ops(): its options, and what it prints.
namespace troupe {

struct OpsOptions {
  std::string model = "llama-3-8b";
  bool fp8 = false;
  bool fp8_kv = false;
  std::vector<int32_t> rows = {1, 16, 64, 256};
  std::vector<int32_t> contexts = {1024};
  std::vector<int32_t> prefill = {512, 2048};
  int32_t tp = 1;
  std::string only;
  std::string tune_file;
  bool json = false;
};

/// False when they make no sense: then kOpsUsage says what does.
bool parse_ops_options(int argc, char** argv, OpsOptions& options);
extern const char* const kOpsUsage;

/// One operation at one size.
struct OpCase {
  const char* op;
  int32_t tokens = 0;
  int32_t context = 0;  // attention: positions that each token sees (decode) or the chunk's length
  int64_t rows = 0;     // a multiply's output and input features
  int64_t cols = 0;
  double bytes = 0;
  double flops = 0;
  bool fp8_arithmetic = false;
};

/// The table's head, with JSON nothing.
void print_head(const OpsOptions& options, const std::string& model, const std::string& gpu);
/// One line: what the operation took beside what it would take at the device's limits.
void report(const OpsOptions& options, const std::string& model, const std::string& gpu,
            const OpCase& c, double us);

}  // namespace troupe
