// The command lines of simulate and replay.
#include "launch/simulate_options.h"
#include "launch/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <variant>
#include <vector>

namespace troupe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::variant<Options, EarlyExit> parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "troupe");
  return parse_options(static_cast<int>(arguments.size()), arguments.data(), {});
}

template <class Command>
Command parsed(std::vector<const char*> arguments) {
  const auto result = parse(std::move(arguments));
  EXPECT_TRUE(std::holds_alternative<Options>(result)) << std::get<EarlyExit>(result).err;
  return std::get<Command>(std::get<Options>(result).command);
}

std::string refused(std::vector<const char*> arguments) {
  const auto result = parse(std::move(arguments));
  if (!std::holds_alternative<EarlyExit>(result)) return "accepted";
  EXPECT_EQ(std::get<EarlyExit>(result).code, 2);
  return std::get<EarlyExit>(result).err;
}

TEST(SimulateOptions, HaveTheirDefaults) {
  const auto c = parsed<SimulateCommand>({"simulate"});
  EXPECT_EQ(c.model, "llama-3-70b");
  EXPECT_EQ(c.gpu, "h200");
  EXPECT_EQ(c.count, 8);
  EXPECT_EQ(c.tp, "1,2,4,8");
  EXPECT_EQ(c.workload, "random:1000/1000");
  EXPECT_EQ(c.requests, 0);
  EXPECT_EQ(c.rate, 0);
  EXPECT_EQ(c.weights, "fp8");
  EXPECT_EQ(c.kv, "fp8");
  EXPECT_FALSE(c.json);
  EXPECT_TRUE(c.svg.empty() && c.record.empty() && c.fit.empty());
}

TEST(SimulateOptions, TakeEveryValue) {
  const auto c = parsed<SimulateCommand>({"simulate",
                                          "--model",
                                          "qwen3-32b",
                                          "--gpu",
                                          "a100",
                                          "--count",
                                          "4",
                                          "--tp",
                                          "2,4",
                                          "--workload",
                                          "sharegpt-like",
                                          "--requests",
                                          "10000000",
                                          "--rate",
                                          "2.5",
                                          "--weights",
                                          "bf16",
                                          "--kv",
                                          "bf16",
                                          "--max-rows",
                                          "64",
                                          "--max-tokens",
                                          "99",
                                          "--max-step-tokens",
                                          "512",
                                          "--seed",
                                          "7",
                                          "--json",
                                          "--svg",
                                          "s.svg",
                                          "--record",
                                          "log",
                                          "--fit",
                                          "table",
                                          "--fit-terms",
                                          "kv_bytes_per_s",
                                          "--coefficients",
                                          "file"});
  EXPECT_EQ(c.model, "qwen3-32b");
  EXPECT_EQ(c.gpu, "a100");
  EXPECT_EQ(c.count, 4);
  EXPECT_EQ(c.tp, "2,4");
  EXPECT_EQ(c.workload, "sharegpt-like");
  EXPECT_EQ(c.requests, 10'000'000);
  EXPECT_EQ(c.rate, 2.5);
  EXPECT_EQ(c.weights, "bf16");
  EXPECT_EQ(c.kv, "bf16");
  EXPECT_EQ(c.max_rows, 64);
  EXPECT_EQ(c.max_step_tokens, 512);
  EXPECT_EQ(c.max_tokens, 99);
  EXPECT_EQ(c.seed, 7U);
  EXPECT_TRUE(c.json);
  EXPECT_EQ(c.svg, "s.svg");
  EXPECT_EQ(c.record, "log");
  EXPECT_EQ(c.fit, "table");
  EXPECT_EQ(c.fit_terms, "kv_bytes_per_s");
  EXPECT_EQ(c.coefficients, "file");
}

TEST(SimulateOptions, RefuseTheAbsurdByName) {
  const auto simulate = [](const char* option, const char* value) {
    return refused({"simulate", option, value});
  };
  EXPECT_THAT(simulate("--count", "0"), HasSubstr("--count"));
  EXPECT_THAT(simulate("--count", "-1"), HasSubstr("--count"));
  EXPECT_THAT(simulate("--count", "1000000000000"), HasSubstr("--count"));
  EXPECT_THAT(simulate("--requests", "-1"), HasSubstr("--requests"));
  EXPECT_THAT(simulate("--requests", "10000001"), HasSubstr("--requests"));
  EXPECT_THAT(simulate("--requests", "1.5"), HasSubstr("--requests"));
  EXPECT_THAT(simulate("--rate", "-1"), HasSubstr("--rate"));
  EXPECT_THAT(simulate("--rate", "nan"), HasSubstr("--rate"));
  EXPECT_THAT(refused({"bench", "serve", "--rate", "nan"}), HasSubstr("--rate"));
  EXPECT_THAT(refused({"chat", "--temperature", "inf"}), HasSubstr("--temperature"));
  EXPECT_THAT(simulate("--weights", "int3"), HasSubstr("--weights"));
  EXPECT_THAT(simulate("--kv", "f16"), HasSubstr("--kv"));
  EXPECT_THAT(simulate("--max-rows", "0"), HasSubstr("--max-rows"));
  EXPECT_THAT(simulate("--max-tokens", "1000000000000"), HasSubstr("--max-tokens"));
}

TEST(SimulateOptions, TpIsAListOfDivisors) {
  EXPECT_THAT(*parse_tp_list("1", 1), ElementsAre(1));
  EXPECT_THAT(*parse_tp_list("8,1,2", 8), ElementsAre(8, 1, 2));
  EXPECT_THAT(*parse_tp_list("3", 6), ElementsAre(3));
  for (const char* bad : {"", ",", "1,", "0", "-1", "1;2", "two", "1.5", "99999999999"}) {
    const auto list = parse_tp_list(bad, 8);
    ASSERT_FALSE(list.ok()) << bad;
    EXPECT_THAT(list.error().message, HasSubstr("as in --tp 1,2,4")) << bad;
  }
  EXPECT_THAT(parse_tp_list("1,3", 8).error().message, HasSubstr("groups of 3"));
  EXPECT_THAT(parse_tp_list("16", 8).error().message, HasSubstr("divides --count"));
}

TEST(ReplayOptions, NameALogAndWhatToPrint) {
  const auto c = parsed<ReplayCommand>({"replay", "x.log", "--from", "7", "--count", "3"});
  EXPECT_EQ(c.log, "x.log");
  EXPECT_EQ(c.from, 7);
  EXPECT_EQ(c.count, 3);
  EXPECT_FALSE(c.partial);
  EXPECT_TRUE(parsed<ReplayCommand>({"replay", "x.log", "--partial"}).partial);
  EXPECT_THAT(refused({"replay"}), HasSubstr("LOG"));
  EXPECT_THAT(refused({"replay", "x.log", "--from", "-1"}), HasSubstr("--from"));
  EXPECT_THAT(refused({"replay", "x.log", "--count", "x"}), HasSubstr("--count"));
}

}  // namespace
}  // namespace troupe
