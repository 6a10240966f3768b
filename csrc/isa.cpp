// Which instruction set runs: the best this processor has, or the one that was forced.
#include <atomic>
#include <cstring>

#include "operations.h"

namespace flowguide {
namespace {

struct Choice {
  const char* name;
  const Operations* operations;
  bool (*here)();
};

const Choice kChoices[] = {
#ifdef FG_HAVE_avx512
    {"avx512", &avx512::operations,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
     }},
#endif
#ifdef FG_HAVE_avx2
    {"avx2", &avx2::operations,
     [] {
       return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
     }},
#endif
    {"base", &base::operations, [] { return true; }},
};

std::atomic<const Choice*> chosen{nullptr};

const Choice& choice() {
  if (!chosen.load()) use_isa("");
  return *chosen.load();
}

}  // namespace

bool use_isa(const char* name) {
  for (const Choice& candidate : kChoices) {
    if (candidate.here() && (!*name || !std::strcmp(name, candidate.name))) {
      chosen.store(&candidate);
      return true;
    }
  }
  return false;
}

const Operations& operations() { return *choice().operations; }
const char* isa() { return choice().name; }

}  // namespace flowguide
