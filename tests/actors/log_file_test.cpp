#include "actors/log_file.h"
#include "tests/support/temp_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <atomic>
#include <condition_variable>
#include <fstream>
#include <iterator>
#include <mutex>
#include <thread>

namespace troupe {
namespace {

using test::TempDir;
using ::testing::HasSubstr;

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Why a log stopped, from whatever thread.
class Listener {
 public:
  std::function<void(const std::string&)> callback() {
    return [this](const std::string& why) {
      const std::lock_guard lock(mutex_);
      text_ += why;
      ++times_;
      changed_.notify_all();
    };
  }
  std::string wait() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(30), [this] { return times_ > 0; });
    return text_;
  }
  int times() {
    const std::lock_guard lock(mutex_);
    return times_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
  int times_ = 0;
};

/// Puts `n` records of `size` bytes, as far as they are taken.
std::string put(LogFile& log, int n, size_t size) {
  std::string all;
  for (int i = 0; i < n; ++i) {
    std::string record(size, static_cast<char>('a' + i % 26));
    all += record;
    if (!log.put(record)) break;
    EXPECT_TRUE(record.empty());
  }
  return all;
}

/// A pipe in the place of a file: a disk whose speed is the test's to choose.
class Pipe {
 public:
  Pipe() : path_(directory_ / "pipe") {
    EXPECT_EQ(mkfifo(path_.c_str(), 0600), 0);
    fd_ = ::open(path_.c_str(), O_RDWR | O_CLOEXEC);
    EXPECT_GE(fd_, 0);
  }
  ~Pipe() { close(); }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  std::string read(size_t size) const {
    std::string out(size, 0);
    for (size_t done = 0; done < size;) {
      const ssize_t n = ::read(fd_, out.data() + done, size - done);
      if (n <= 0) return out.substr(0, done);
      done += static_cast<size_t>(n);
    }
    return out;
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  TempDir directory_;
  std::string path_;
  int fd_ = -1;
};

TEST(LogFile, HasEverythingAndTheTrailer) {
  const TempDir directory;
  Listener listener;
  std::string all;
  {
    auto log = LogFile::open({.path = directory / "log", .trailer = "END"}, listener.callback());
    ASSERT_TRUE(log.ok());
    all = put(**log, 1000, 5000);
  }
  EXPECT_EQ(read(directory / "log"), all + "END");
  EXPECT_EQ(listener.times(), 0);
}

TEST(LogFile, EndsWhenItIsStopped) {
  const TempDir directory;
  Listener listener;
  auto log = LogFile::open({.path = directory / "log", .trailer = "END"}, listener.callback());
  ASSERT_TRUE(log.ok());
  const std::string all = put(**log, 3, 10);
  (*log)->stop("enough");
  (*log)->stop("really");
  std::string more = "more";
  EXPECT_FALSE((*log)->put(more));
  EXPECT_EQ(listener.wait(), "recording to " + directory / "log" + " has stopped: enough");
  log->reset();
  EXPECT_EQ(listener.times(), 1);
  EXPECT_EQ(read(directory / "log"), all + "END");
}

// As of a full disk, at a size that the test can choose.
TEST(LogFile, KeepsWhatFitsWhenTheFileMayNotGrow) {
  const TempDir directory;
  Listener listener;
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 100'050;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  auto log = LogFile::open({.path = directory / "log", .trailer = "END", .wait = true},
                           listener.callback());
  ASSERT_TRUE(log.ok());
  const std::string all = put(**log, 1 << 20, 1000);
  EXPECT_THAT(listener.wait(), HasSubstr("has stopped: File too large"));
  log->reset();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(listener.times(), 1);
  EXPECT_EQ(read(directory / "log"), all.substr(0, 100'000) + "END");
}

TEST(LogFile, AFullDiskIsToldOnce) {
  Listener listener;
  auto log =
      LogFile::open({.path = "/dev/full", .trailer = "END", .wait = true}, listener.callback());
  ASSERT_TRUE(log.ok());
  put(**log, 1 << 20, 1000);
  EXPECT_THAT(listener.wait(), HasSubstr("No space left"));
  log->reset();
  EXPECT_EQ(listener.times(), 1);
}

TEST(LogFile, NeverWaitsForADiskThatHangs) {
  Pipe disk;
  Listener listener;
  auto log = LogFile::open({.path = disk.path(),
                            .trailer = "END",
                            .max_waiting = 1 << 20,
                            .patience = std::chrono::milliseconds(10)},
                           listener.callback());
  ASSERT_TRUE(log.ok());
  const size_t taken = put(**log, 1 << 20, 1000).size();
  // What is in the pipe, being written and waiting.
  EXPECT_GE(taken, size_t{1} << 20);
  EXPECT_LE(taken, size_t{3} << 20);
  EXPECT_THAT(listener.wait(), HasSubstr("the disk is too slow, more than 1024 KB would wait"));
  log->reset();  // leaves the writing thread in its write
  EXPECT_EQ(listener.times(), 1);
}

TEST(LogFile, WaitsForASlowDiskWhereItIsAskedTo) {
  Pipe disk;
  Listener listener;
  auto log =
      LogFile::open({.path = disk.path(), .trailer = "END", .wait = true, .max_waiting = 10'000},
                    listener.callback());
  ASSERT_TRUE(log.ok());
  std::string got;
  std::thread reader([&] { got = disk.read(2'000'003); });
  const std::string all = put(**log, 2000, 1000);
  log->reset();
  reader.join();
  EXPECT_EQ(got, all + "END");
  EXPECT_EQ(listener.times(), 0);
}

TEST(LogFile, AReaderThatLeavesEndsNobody) {
  Pipe disk;
  Listener listener;
  auto log =
      LogFile::open({.path = disk.path(), .trailer = "END", .wait = true}, listener.callback());
  ASSERT_TRUE(log.ok());
  disk.close();
  put(**log, 1 << 20, 1000);
  EXPECT_THAT(listener.wait(), HasSubstr("Broken pipe"));
}

}  // namespace
}  // namespace troupe
