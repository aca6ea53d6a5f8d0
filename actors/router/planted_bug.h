#pragma once

/// Faults for the tests' tests: `TROUPE_BUG(n)` is `false` in the product. A second build of the
/// router, which only tests link, defines TROUPE_PLANT_BUGS and chooses a fault at run time; the
/// suite then has to notice.
#ifdef TROUPE_PLANT_BUGS
namespace troupe {
extern int planted_bug;  // 0 = none
}
#define TROUPE_BUG(n) (::troupe::planted_bug == (n))
#else
#define TROUPE_BUG(n) false
#endif
