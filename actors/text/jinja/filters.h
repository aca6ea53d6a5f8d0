#pragma once

#include "actors/text/jinja/interpreter.h"

#include <string>
#include <string_view>

namespace troupe::jinja {

/// The filters over lists and dicts: join, map, select, sort and so on (list_filters.cpp).
bool is_list_filter(std::string_view name);
Value apply_list_filter(Interpreter& run, const std::string& name, const Value& operand,
                        const Arguments& arguments);

}  // namespace troupe::jinja
