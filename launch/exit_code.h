#pragma once

#include "gpu/base/result.h"

/// How the program's processes end.
namespace troupe {

constexpr int kExitOk = 0;
constexpr int kExitFailed = 1;
constexpr int kExitStart = 2;     // bad options, or the service could not start
constexpr int kExitGivenUp = 75;  // EX_TEMPFAIL: a replica fails again and again
constexpr int kExitDevice =
    75;  // a rank's device failed while it served: starting it again may help

/// Of a rank that ended with `error`.
constexpr int rank_exit_code(ErrorCode error) {
  if (error == ErrorCode::kDeviceFailed) return kExitDevice;
  return error == ErrorCode::kUnavailable ? kExitFailed : kExitStart;
}

}  // namespace troupe
