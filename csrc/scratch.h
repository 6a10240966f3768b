// Memory that a thread keeps from call to call, so that steady work allocates nothing.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <new>

#include "image.h"

namespace flowguide::FG_ISA {

class Scratch {
 public:
  ~Scratch() { std::free(memory_); }

  // At least `count` floats, their content undefined; valid until the next call.
  float* floats(int64_t count) {
    if (count > count_) {
      std::free(memory_);
      memory_ = static_cast<float*>(std::malloc(sizeof(float) * size_t(count)));
      count_ = memory_ ? count : 0;
      if (!memory_) throw std::bad_alloc();
    }
    return memory_;
  }

 private:
  float* memory_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace flowguide::FG_ISA
