#pragma once

#include "gpu/base/result.h"
#include "gpu/executor.h"
#include "launch/options.h"
#include "launch/tls_material.h"

#include <cstdint>
#include <string>

namespace troupe {

/// Everything a rank needs to join a service: the content of the join file. Holds the private key.
struct JoinInfo {
  std::string host;
  uint16_t port = 0;
  TlsMaterial tls;
  std::string model;
  RankShape shape;        // threads 0 = the rank divides its own cores
  int32_t first_gpu = 0;  // of the host; its ranks take this one and the next ones
  uint64_t job = 0;       // 0 = rank 0 draws one
};

/// A new name for a job; never 0.
[[nodiscard]] uint64_t random_job();

[[nodiscard]] std::string to_json(const JoinInfo& info);
/// `source` names the text in messages.
[[nodiscard]] Result<JoinInfo> parse_join_info(const std::string& text, const std::string& source);
/// Reads a join file, or standard input to its end for "-".
[[nodiscard]] Result<std::string> read_join_text(const std::string& path);

/// `threads` is the final number. What a GPU's tuning learns is kept in the cache folder, which is
/// made here.
[[nodiscard]] ExecutorOptions executor_options(const RankShape& shape, int32_t threads,
                                               const Environment& environment);

}  // namespace troupe
