#pragma once

#include <cmath>
#include <cstdlib>
#include <string>

namespace troupe {

/// A check for CLI11: its ranges let "nan" pass.
inline std::string finite(const std::string& text) {
  if (std::isfinite(std::strtod(text.c_str(), nullptr))) return {};
  return "'" + text + "' is not a number to work with";
}

}  // namespace troupe
