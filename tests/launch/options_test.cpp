#include "launch/options.h"

#include "launch/exit_code.h"

#include <gmock/gmock.h>

#include <vector>

namespace troupe {
namespace {

using ::testing::HasSubstr;

std::variant<Options, EarlyExit> parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "troupe");
  Environment environment;
  environment.api_key = "from-environment";
  return parse_options(static_cast<int>(arguments.size()), arguments.data(), environment);
}

template <class Command>
Command parsed(std::vector<const char*> arguments) {
  const auto result = parse(std::move(arguments));
  EXPECT_TRUE(std::holds_alternative<Options>(result)) << std::get<EarlyExit>(result).err;
  return std::get<Command>(std::get<Options>(result).command);
}

EarlyExit refused(std::vector<const char*> arguments) {
  const auto result = parse(std::move(arguments));
  EXPECT_TRUE(std::holds_alternative<EarlyExit>(result));
  return std::get<EarlyExit>(result);
}

TEST(Options, serve_has_its_defaults) {
  const auto serve = parsed<ServeCommand>({"serve", "/tmp"});
  EXPECT_EQ(serve.model, "/tmp");
  EXPECT_EQ(serve.host, "127.0.0.1");
  EXPECT_EQ(serve.port, 8000);
  EXPECT_EQ(serve.tp, 0);
  EXPECT_EQ(serve.dp, 1);
  EXPECT_EQ(serve.shape.kv_tokens, 0);
  EXPECT_EQ(serve.shape.kv, "auto");
  EXPECT_EQ(serve.drain_timeout, 30);
}

TEST(Options, serve_takes_how_it_is_to_behave_under_load) {
  const auto usual = parsed<ServeCommand>({"serve", "/tmp"});
  EXPECT_EQ(usual.decode_slowdown, 0);  // place() decides
  EXPECT_EQ(usual.late_requests, "refuse");
  EXPECT_EQ(usual.step_timeout, 60);
  EXPECT_FALSE(usual.share_prefixes);
  const auto serve =
      parsed<ServeCommand>({"serve", "/tmp", "--decode-slowdown", "1.5", "--late-requests",
                            "demote", "--step-timeout", "30", "--share-prefixes"});
  EXPECT_EQ(serve.decode_slowdown, 1.5);
  EXPECT_EQ(serve.late_requests, "demote");
  EXPECT_EQ(serve.step_timeout, 30);
  EXPECT_TRUE(serve.share_prefixes);
  for (const char* bad : {"0.5", "1", "-1", "2000", "nan", "fast"}) {
    EXPECT_THAT(refused({"serve", "/tmp", "--decode-slowdown", bad}).err,
                HasSubstr("--decode-slowdown"))
        << bad;
  }
  EXPECT_EQ(refused({"serve", "/tmp", "--step-timeout", "1"}).code, 2);
  EXPECT_EQ(refused({"serve", "/tmp", "--late-requests", "drop"}).code, 2);
}

TEST(Options, serve_takes_every_value) {
  const auto serve = parsed<ServeCommand>({"serve",
                                           "/tmp",
                                           "--host",
                                           "::1",
                                           "--port",
                                           "0",
                                           "--tp",
                                           "3",
                                           "--dp",
                                           "2",
                                           "--threads",
                                           "5",
                                           "--kv-tokens",
                                           "100",
                                           "--kv",
                                           "f32",
                                           "--exact",
                                           "--max-rows",
                                           "7",
                                           "--max-step-tokens",
                                           "9",
                                           "--max-queue",
                                           "11",
                                           "--plan-ahead-ms",
                                           "0",
                                           "--served-model-name",
                                           "m",
                                           "--in-process",
                                           "--drain-timeout",
                                           "1"});
  EXPECT_EQ(serve.host, "::1");
  EXPECT_EQ(serve.port, 0);
  EXPECT_EQ(serve.tp, 3);
  EXPECT_EQ(serve.dp, 2);
  EXPECT_EQ(serve.shape.threads, 5);
  EXPECT_EQ(serve.shape.kv_tokens, 100);
  EXPECT_EQ(serve.shape.kv, "f32");
  EXPECT_TRUE(serve.shape.exact);
  EXPECT_EQ(serve.shape.max_rows, 7);
  EXPECT_EQ(serve.shape.max_step_tokens, 9);
  EXPECT_EQ(serve.max_queue, 11);
  EXPECT_EQ(serve.plan_ahead, 0);
  EXPECT_EQ(serve.served_name, "m");
  EXPECT_TRUE(serve.in_process);
}

struct BadCase {
  std::vector<const char*> arguments;
  const char* says;
};

class BadOption : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadOption, is_refused_with_its_name) {
  const auto exit = refused(GetParam().arguments);
  EXPECT_EQ(exit.code, 2);
  EXPECT_THAT(exit.err, HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadOption,
    ::testing::Values(BadCase{{}, "subcommand"}, BadCase{{"fly"}, "fly"},
                      BadCase{{"serve"}, "MODEL"}, BadCase{{"serve", "/no/such"}, "/no/such"},
                      BadCase{{"serve", "/tmp", "--port", "65536"}, "--port"},
                      BadCase{{"serve", "/tmp", "--port", "-1"}, "--port"},
                      BadCase{{"serve", "/tmp", "--port", "x"}, "--port"},
                      BadCase{{"serve", "/tmp", "--tp", "-1"}, "--tp"},
                      BadCase{{"serve", "/tmp", "--tp", "1.5"}, "--tp"},
                      BadCase{{"serve", "/tmp", "--dp", "0"}, "--dp"},
                      BadCase{{"serve", "/tmp", "--device", "tpu"}, "unknown device"},
                      BadCase{{"serve", "/tmp", "--threads", "-1"}, "--threads"},
                      BadCase{{"serve", "/tmp", "--kv-tokens", "-1"}, "--kv-tokens"},
                      BadCase{{"serve", "/tmp", "--kv", "int8"}, "--kv"},
                      BadCase{{"serve", "/tmp", "--max-rows", "-1"}, "--max-rows"},
                      BadCase{{"serve", "/tmp", "--max-step-tokens", "-8"}, "--max-step-tokens"},
                      BadCase{{"serve", "/tmp", "--max-queue", "0"}, "--max-queue"},
                      BadCase{{"serve", "/tmp", "--plan-ahead-ms", "-2"}, "--plan-ahead-ms"},
                      BadCase{{"serve", "/tmp", "--plan-ahead-ms", "1001"}, "--plan-ahead-ms"},
                      BadCase{{"serve", "/tmp", "--api-key-file", "/no/such"}, "/no/such"},
                      BadCase{{"serve", "/tmp", "--hostfile", "/no/such"}, "/no/such"},
                      BadCase{{"serve", "/tmp", "--hostfile", "/dev/null", "--in-process"},
                              "--in-process"},
                      BadCase{{"serve", "/tmp", "--drain-timeout", "-1"}, "--drain-timeout"},
                      BadCase{{"serve", "/tmp", "--log-level", "loud"}, "--log-level"},
                      BadCase{{"serve", "/tmp", "--log-format", "xml"}, "--log-format"},
                      BadCase{{"serve", "/tmp", "--nonsense"}, "--nonsense"},
                      BadCase{{"rank"}, "--join"},
                      BadCase{{"rank", "--join", "-", "--threads", "x"}, "--threads"},
                      BadCase{{"chat", "--temperature", "3"}, "--temperature"},
                      BadCase{{"doctor", "/no/such"}, "/no/such"}, BadCase{{"bench"}, "subcommand"},
                      BadCase{{"bench", "fly"}, "troupe bench --help"},
                      BadCase{{"bench", "serve", "ftp://host"}, "http://"},
                      BadCase{{"bench", "serve", "--concurrency", "0"}, "--concurrency"},
                      BadCase{{"bench", "serve", "--rate", "0"}, "--rate"},
                      BadCase{{"bench", "serve", "--rate", "2", "--concurrency", "2"}, "--rate"},
                      BadCase{{"bench", "serve", "--requests", "x"}, "--requests"},
                      BadCase{{"bench", "serve", "--input-tokens", "9:8"}, "64:256"},
                      BadCase{{"bench", "serve", "--output-tokens", "0"}, "--output-tokens"},
                      BadCase{{"bench", "serve", "--endpoint", "embed"}, "--endpoint"},
                      BadCase{{"bench", "serve", "--prompt", "poems"}, "--prompt"},
                      BadCase{{"bench", "serve", "--slo-ttft", "-1"}, "--slo-ttft"},
                      BadCase{{"bench", "serve", "--nonsense"}, "troupe bench serve --help"}));

TEST(Options, bench_serve_takes_every_value) {
  const auto bench = parsed<BenchServeCommand>({"bench",
                                                "serve",
                                                "http://host:1",
                                                "--model",
                                                "m",
                                                "--endpoint",
                                                "chat",
                                                "--prompt",
                                                "words",
                                                "--requests",
                                                "3",
                                                "--warmup",
                                                "0",
                                                "--rate",
                                                "2.5",
                                                "--input-tokens",
                                                "16",
                                                "--output-tokens",
                                                "1:9",
                                                "--seed",
                                                "18446744073709551615",
                                                "--respect-eos",
                                                "--slo-ttft",
                                                "200",
                                                "--slo-tpot",
                                                "50.5",
                                                "--timeout",
                                                "8",
                                                "--json",
                                                "-"});
  EXPECT_EQ(bench.url, "http://host:1");
  EXPECT_EQ(bench.model, "m");
  EXPECT_EQ(bench.endpoint, "chat");
  EXPECT_EQ(bench.prompt, "words");
  EXPECT_EQ(bench.requests, 3);
  EXPECT_EQ(bench.warmup, 0);
  EXPECT_EQ(bench.rate, 2.5);
  EXPECT_EQ(bench.input.low, 16);
  EXPECT_EQ(bench.input.high, 16);
  EXPECT_EQ(bench.output.low, 1);
  EXPECT_EQ(bench.output.high, 9);
  EXPECT_EQ(bench.seed, UINT64_MAX);
  EXPECT_TRUE(bench.respect_eos);
  EXPECT_EQ(bench.slo_ttft, 200);
  EXPECT_EQ(bench.slo_tpot, 50.5);
  EXPECT_EQ(bench.timeout, 8);
  EXPECT_EQ(bench.json, "-");
  EXPECT_EQ(bench.api_key, "from-environment");
}

TEST(Options, bench_serve_is_a_closed_loop_unless_told_a_rate) {
  const auto bench = parsed<BenchServeCommand>({"bench", "serve", "--concurrency", "16"});
  EXPECT_EQ(bench.concurrency, 16);
  EXPECT_EQ(bench.rate, 0);
  EXPECT_EQ(bench.input.low, 128);
}

TEST(Options, help_and_version_leave_with_zero) {
  for (const char* command : {"serve", "rank", "chat", "doctor"}) {
    const auto exit = refused({command, "--help"});
    EXPECT_EQ(exit.code, 0);
    EXPECT_THAT(exit.out, HasSubstr("--"));
  }
  EXPECT_THAT(refused({"--version"}).out, HasSubstr("troupe 0."));
  EXPECT_THAT(refused({"--help"}).out, HasSubstr("serve"));
}

TEST(Options, chat_takes_its_key_from_the_environment_unless_given) {
  EXPECT_EQ(parsed<ChatCommand>({"chat"}).api_key, "from-environment");
  EXPECT_EQ(parsed<ChatCommand>({"chat", "--api-key", "k"}).api_key, "k");
}

TEST(Options, an_empty_once_prompt_is_not_a_conversation) {
  EXPECT_TRUE(parsed<ChatCommand>({"chat", "--once", ""}).has_once);
  EXPECT_FALSE(parsed<ChatCommand>({"chat"}).has_once);
}

TEST(Options, summary_names_every_value_and_no_secret) {
  const auto serve = parse({"serve", "/tmp", "--port", "81"});
  EXPECT_THAT(std::get<Options>(serve).summary, HasSubstr("port=81"));
  EXPECT_THAT(std::get<Options>(serve).summary, HasSubstr("kv-tokens=0"));
  const auto chat = parse({"chat", "--api-key", "hush"});
  EXPECT_EQ(std::get<Options>(chat).summary, "");
}

TEST(Options, threads_are_shared_evenly_and_never_zero) {
  EXPECT_EQ(threads_per_rank(0, 8, 2), 4);
  EXPECT_EQ(threads_per_rank(0, 2, 3), 1);
  EXPECT_EQ(threads_per_rank(3, 2, 3), 3);
}

TEST(ExitCode, OfARankSaysWhetherAnotherStartMayHelp) {
  EXPECT_EQ(rank_exit_code(ErrorCode::kDeviceFailed), 75);
  EXPECT_EQ(rank_exit_code(ErrorCode::kUnavailable), 1);
  for (const ErrorCode code : {ErrorCode::kOutOfMemory, ErrorCode::kBadModel,
                               ErrorCode::kInvalidArgument, ErrorCode::kInternal})
    EXPECT_EQ(rank_exit_code(code), 2);
}

}  // namespace
}  // namespace troupe
