#include "launch/api_keys.h"

#include "tests/support/temp_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace troupe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;

class ApiKeysTest : public testing::Test {
 protected:
  Result<ApiKeys> read(const std::string& text) { return read_api_keys(dir_.write("keys", text)); }
  test::TempDir dir_;
};

TEST_F(ApiKeysTest, one_key_a_line_with_or_without_a_weight) {
  const auto keys = read("# ours\n\nfirst\r\nsecond weight=2.5\n  third\tweight=1 \n");
  ASSERT_TRUE(keys.ok()) << keys.error().message;
  EXPECT_THAT(keys->keys, ElementsAre("first", "second", "third"));
  EXPECT_THAT(keys->weights, ElementsAre(Pair(2U, 2.5)));
}

TEST_F(ApiKeysTest, refuses_what_it_does_not_know_with_the_line_and_without_the_key) {
  for (const char* bad : {"a\nsecret weight=0\n", "a\nsecret weight=-1\n", "a\nsecret weight=nan\n",
                          "a\nsecret weight=2x\n", "a\nsecret weight=1e9\n", "a\nsecret hello\n",
                          "a\nsecret weight=2 more\n", "secret\nsecret\n"}) {
    const auto keys = read(bad);
    ASSERT_FALSE(keys.ok()) << bad;
    EXPECT_THAT(keys.error().message, HasSubstr("line 2"));
    EXPECT_THAT(keys.error().message, Not(HasSubstr("secret")));
  }
}

TEST_F(ApiKeysTest, refuses_a_file_without_keys_and_no_file) {
  EXPECT_FALSE(read("# nothing\n").ok());
  EXPECT_FALSE(read_api_keys(dir_ / "none").ok());
}

}  // namespace
}  // namespace troupe
