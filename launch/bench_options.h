#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace CLI {
class App;
}

namespace troupe {

/// `low` to `high` tokens, both included: written as "128" or "64:256".
struct TokenRange {
  int32_t low = 128;
  int32_t high = 128;
};

/// `troupe bench serve`: load on an OpenAI-compatible server.
struct BenchServeCommand {
  std::string url = "http://127.0.0.1:8000";
  std::string model;  // empty = the server's first
  std::string api_key;
  std::string endpoint = "completions";  // completions, chat
  std::string prompt = "tokens";         // tokens (random ids), words (for chat: always words)
  int32_t vocab = 32000;                 // ids are drawn from [100, vocab)
  int32_t requests = 32;
  int32_t warmup = 1;       // requests before the measurement, one at a time
  int32_t concurrency = 1;  // closed loop: so many in flight
  double rate = 0;          // open loop: arrivals per second (Poisson); 0 = closed loop
  TokenRange input;
  TokenRange output;
  uint64_t seed = 1;
  bool respect_eos = false;  // let the model end early; else `ignore_eos` is sent
  double slo_ttft = 0;       // milliseconds, 0 = no bound
  double slo_tpot = 0;
  int32_t timeout = 600;  // seconds, of one request
  std::string json;       // file for the figures, "-" = standard output
};

/// Adds the options of `bench serve` to its subcommand.
void add_bench_serve(CLI::App& app, BenchServeCommand& bench);

/// What is wrong with the options taken together, as a sentence that says what to do.
[[nodiscard]] std::optional<std::string> conflict(const BenchServeCommand& bench);

/// "N" or "LOW:HIGH" with 1 <= LOW <= HIGH; nothing when it is neither.
[[nodiscard]] std::optional<TokenRange> parse_token_range(const std::string& text);

}  // namespace troupe
