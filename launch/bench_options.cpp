#include "launch/bench_options.h"

#include "launch/option_checks.h"

#include <CLI/CLI.hpp>

#include <charconv>
#include <string_view>

namespace troupe {
namespace {

constexpr int32_t kMostTokens = 1 << 24;

std::optional<int32_t> whole_number(std::string_view text) {
  int32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

void add_range(CLI::App& app, const char* name, TokenRange& range, const char* help) {
  app.add_option_function<std::string>(
         name,
         [&range, name](const std::string& text) {
           const auto parsed = parse_token_range(text);
           if (!parsed) {
             throw CLI::ValidationError(
                 name, "'" + text + "' is neither a number of tokens nor a range like 64:256");
           }
           range = *parsed;
         },
         help)
      ->default_str(std::to_string(range.low));
}

}  // namespace

std::optional<TokenRange> parse_token_range(const std::string& text) {
  const size_t colon = text.find(':');
  const auto low = whole_number(std::string_view(text).substr(0, colon));
  const auto high =
      colon == std::string::npos ? low : whole_number(std::string_view(text).substr(colon + 1));
  if (!low || !high || *low < 1 || *low > *high || *high > kMostTokens) return std::nullopt;
  return TokenRange{*low, *high};
}

void add_bench_serve(CLI::App& app, BenchServeCommand& bench) {
  app.add_option("URL", bench.url, "The server")->capture_default_str();
  app.add_option("--model", bench.model, "Model name; default: the server's first");
  app.add_option("--api-key", bench.api_key, "API key; default: TROUPE_API_KEY, OPENAI_API_KEY");
  app.add_option("--endpoint", bench.endpoint, "Which API to call")
      ->check(CLI::IsMember({"completions", "chat"}))
      ->capture_default_str();
  app.add_option("--prompt", bench.prompt, "Prompts of random token ids, or of random words")
      ->check(CLI::IsMember({"tokens", "words"}))
      ->capture_default_str();
  app.add_option("--vocab", bench.vocab, "Token ids are drawn below this")
      ->check(CLI::Range(101, 1 << 24))
      ->capture_default_str();
  app.add_option("--requests", bench.requests, "Requests to measure")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app.add_option("--warmup", bench.warmup, "Requests before the measurement")
      ->check(CLI::Range(0, 1 << 16))
      ->capture_default_str();
  auto* concurrency =
      app.add_option("--concurrency", bench.concurrency, "Closed loop: requests in flight")
          ->check(CLI::Range(1, 1 << 14))
          ->capture_default_str();
  app.add_option("--rate", bench.rate, "Open loop: arrivals a second, Poisson")
      ->check(CLI::Validator(finite, "", ""))
      ->check(CLI::Range(1e-3, 1e6))
      ->excludes(concurrency);
  add_range(app, "--input-tokens", bench.input, "Prompt length, N or LOW:HIGH");
  add_range(app, "--output-tokens", bench.output, "Answer length, N or LOW:HIGH");
  app.add_option("--seed", bench.seed, "Of lengths, prompts and arrivals")->capture_default_str();
  app.add_flag("--respect-eos", bench.respect_eos,
               "Do not send `ignore_eos`: for servers that refuse it; answers may be shorter");
  app.add_option("--slo-ttft", bench.slo_ttft, "Goodput: first token within, milliseconds")
      ->check(CLI::Validator(finite, "", ""))
      ->check(CLI::PositiveNumber);
  app.add_option("--slo-tpot", bench.slo_tpot, "Goodput: time per later token, milliseconds")
      ->check(CLI::Validator(finite, "", ""))
      ->check(CLI::PositiveNumber);
  app.add_option("--timeout", bench.timeout, "Seconds one request may take")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str();
  app.add_option("--json", bench.json, "Write the figures to this file; - = standard output");
}

std::optional<std::string> conflict(const BenchServeCommand& bench) {
  if (!bench.url.starts_with("http://") && !bench.url.starts_with("https://")) {
    return "'" + bench.url + "' is not a URL; write it like http://127.0.0.1:8000";
  }
  return std::nullopt;
}

}  // namespace troupe
