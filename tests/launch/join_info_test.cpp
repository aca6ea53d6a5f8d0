#include "launch/join_info.h"

#include "launch/run_directory.h"

#include <gmock/gmock.h>

#include <sys/stat.h>

namespace troupe {
namespace {

using ::testing::HasSubstr;

JoinInfo sample() {
  JoinInfo info;
  info.host = "10.0.0.1";
  info.port = 65535;
  info.tls = {"certificate\n", "key\n", "ca\n"};
  info.model = "/a \"b\"/\n.gguf";
  info.shape = {"cpu", 3, 100, "f32", "auto", false, true, 5, 6};
  info.first_gpu = 4;
  info.job = ~uint64_t{0};
  return info;
}

TEST(JoinInfo, comes_back_as_it_was) {
  const auto back = parse_join_info(to_json(sample()), "test");
  ASSERT_TRUE(back.ok()) << back.error().message;
  EXPECT_EQ(to_json(*back), to_json(sample()));
  EXPECT_EQ(back->job, ~uint64_t{0});
  EXPECT_EQ(back->model, sample().model);
}

TEST(JoinInfo, every_missing_or_mistyped_field_is_named) {
  const std::string good = to_json(sample());
  for (const char* field :
       {"host", "port", "certificate", "key", "ca", "model", "device", "threads", "kv_tokens", "kv",
        "weights", "dummy_weights", "exact", "max_rows", "max_step_tokens", "first_gpu", "job"}) {
    std::string bad = good;
    const std::string quoted = "\"" + std::string(field) + "\"";
    bad.replace(bad.find(quoted), quoted.size(), "\"elsewhere\"");
    const auto back = parse_join_info(bad, "F");
    ASSERT_FALSE(back.ok()) << field;
    EXPECT_THAT(back.error().message, HasSubstr("'" + std::string(field) + "'"));
  }
  std::string bad = good;
  bad.replace(bad.find("65535"), 5, "65536");
  EXPECT_FALSE(parse_join_info(bad, "F").ok());
}

TEST(JoinInfo, text_that_is_no_join_file_is_refused) {
  for (const std::string& text :
       {std::string(), std::string("x"), std::string("[]"), std::string("{"),
        std::string(5'000'000, '['), to_json(sample()).substr(0, 40)}) {
    const auto back = parse_join_info(text, "F");
    ASSERT_FALSE(back.ok());
    EXPECT_THAT(back.error().message, HasSubstr("troupe serve"));
  }
}

TEST(JoinInfo, file_is_private_and_reads_back) {
  Environment environment;
  auto directory = RunDirectory::create(environment);
  ASSERT_TRUE(directory.ok());
  struct stat status {};
  ASSERT_EQ(stat(directory->path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0700U);
  const std::string path = directory->path() + "/join.json";
  for (int i = 0; i < 2; ++i) {  // the second replaces the first
    ASSERT_TRUE(write_private_file(path, to_json(sample())).ok());
    ASSERT_EQ(stat(path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0600U);
  }
  const auto text = read_join_text(path);
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(*text, to_json(sample()));
  EXPECT_FALSE(read_join_text(path + "x").ok());
  EXPECT_FALSE(write_private_file(path + "/x/y", "").ok());
}

TEST(RunDirectory, vanishes_with_its_owner) {
  std::string path;
  {
    auto directory = RunDirectory::create(Environment{});
    ASSERT_TRUE(directory.ok());
    path = directory->path();
    ASSERT_TRUE(directory->make_subdirectory("job").ok());
    EXPECT_FALSE(directory->make_subdirectory("job").ok());
    ASSERT_TRUE(write_private_file(path + "/job/file", "x").ok());
  }
  struct stat status {};
  EXPECT_NE(stat(path.c_str(), &status), 0);
}

}  // namespace
}  // namespace troupe
