#include "launch/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace troupe {
namespace {

using ::testing::HasSubstr;

ServeCommand command(const char* device) {
  ServeCommand command;
  command.model = "m";
  command.shape.device = device;
  return command;
}

TEST(Placement, auto_is_the_cpu_without_a_gpu) {
  const auto placed = place(command("auto"), 0);
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ(placed->shape.device, "cpu");
  EXPECT_EQ(placed->tp, 2);
  EXPECT_EQ(placed->shape.kv, "f16");
  EXPECT_EQ(placed->shape.kv_tokens, 8192);
  EXPECT_EQ(placed->shape.max_rows, 64);
  EXPECT_EQ(placed->shape.max_step_tokens, 512);
  EXPECT_EQ(placed->decode_slowdown, kNoSlowdownLimit);
  EXPECT_EQ(placed->plan_ahead, 25);
}

TEST(Placement, gpus_and_modelled_ones_keep_prompts_from_slowing_streams) {
  EXPECT_EQ(place(command("cuda"), 1)->decode_slowdown, 1.25);
  EXPECT_EQ(place(command("cuda"), 1)->plan_ahead, 0);
  EXPECT_EQ(place(command("sim:h200"), 0)->decode_slowdown, 1.25);
  ServeCommand asked = command("cuda");
  asked.decode_slowdown = 2;
  EXPECT_EQ(place(asked, 1)->decode_slowdown, 2);
}

TEST(Placement, auto_takes_every_gpu_there_is) {
  ServeCommand asked = command("auto");
  asked.dp = 2;
  const auto placed = place(asked, 8);
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ(placed->shape.device, "cuda");
  EXPECT_EQ(placed->tp, 4);
  EXPECT_EQ(placed->shape.kv, "bf16");
  EXPECT_EQ(placed->shape.weights, "auto");  // as the checkpoint has them
  EXPECT_EQ(placed->shape.kv_tokens, 0);     // what fits
  EXPECT_EQ(placed->shape.max_rows, 256);
}

TEST(Placement, a_replica_in_this_process_takes_one_gpu) {
  ServeCommand asked = command("cuda");
  asked.in_process = true;
  const auto placed = place(asked, 2);
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ(placed->tp, 1);
}

TEST(Placement, what_the_user_says_stays) {
  ServeCommand asked = command("cpu");
  asked.tp = 1;
  asked.shape.kv = "f32";
  asked.shape.kv_tokens = 77;
  asked.shape.max_rows = 600;
  const auto placed = place(asked, 8);
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ(placed->tp, 1);
  EXPECT_EQ(placed->shape.kv, "f32");
  EXPECT_EQ(placed->shape.kv_tokens, 77);
  EXPECT_EQ(placed->shape.max_step_tokens, 600);  // never below the rows
}

TEST(Placement, what_does_not_go_together_is_refused_with_its_option) {
  const auto says = [](ServeCommand asked, int32_t gpus) {
    const auto placed = place(asked, gpus);
    return placed.ok() ? std::string("accepted") : placed.error().message;
  };
  EXPECT_THAT(says(command("cuda"), 0), HasSubstr("--device cpu"));
  ServeCommand asked = command("cuda");
  asked.tp = 4;
  EXPECT_THAT(says(asked, 2), HasSubstr("this host has 2"));
  asked = command("cuda");
  asked.in_process = true;
  asked.tp = 2;
  EXPECT_THAT(says(asked, 2), HasSubstr("one rank a replica"));
  asked = command("cuda");
  asked.shape.kv = "f16";
  EXPECT_THAT(says(asked, 1), HasSubstr("bf16 or fp8"));
  asked = command("cuda");
  asked.shape.exact = true;
  EXPECT_THAT(says(asked, 1), HasSubstr("--exact"));
  for (const char* kv : {"bf16", "fp8"}) {
    asked = command("cpu");
    asked.shape.kv = kv;
    EXPECT_THAT(says(asked, 1), HasSubstr("needs a GPU"));
  }
  asked = command("auto");
  asked.shape.weights = "fp8";
  EXPECT_THAT(says(asked, 0), HasSubstr("needs a GPU"));
  asked = command("cpu");
  asked.shape.max_rows = 9;
  asked.shape.max_step_tokens = 8;
  EXPECT_THAT(says(asked, 0), HasSubstr("at least --max-rows"));
}

TEST(Placement, a_gpu_asked_for_in_vain_is_refused_with_the_reason) {
  const auto plain = place(command("cuda"), 0);
  ASSERT_FALSE(plain.ok());
  EXPECT_NE(plain.error().message.find("troupe doctor"), std::string::npos);
  const auto told = place(command("cuda"), 0, "there is no NVIDIA driver; install one");
  ASSERT_FALSE(told.ok());
  EXPECT_EQ(told.error().message, "there is no NVIDIA driver; install one");
  EXPECT_TRUE(place(command("auto"), 0).ok());
}

}  // namespace
}  // namespace troupe
