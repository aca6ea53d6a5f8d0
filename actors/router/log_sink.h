#pragma once

#include <string>

namespace troupe {

/// Where the bytes of a router's log go. One thread uses it.
class LogSink {
 public:
  LogSink() = default;
  /// Ends the log, if nothing has ended it before.
  virtual ~LogSink() = default;
  LogSink(const LogSink&) = delete;
  LogSink& operator=(const LogSink&) = delete;

  /// Takes whole records and leaves `records` empty. False: the log has ended, and somebody has
  /// been told why.
  virtual bool put(std::string& records) = 0;
  /// Ends the log early and tells why.
  virtual void stop(const std::string& why) = 0;
};

}  // namespace troupe
