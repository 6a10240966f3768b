// The only file that knows Python: one line per operation and device, pointers passed as integers.
// Shapes, dtypes and devices were checked by flowguide/ops.py; flowguide/native.py is the only caller.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "operations.h"

namespace py = pybind11;
using namespace flowguide;

namespace {

using Numbers = std::array<float, 8>;

// A pointer comes as an integer, a Code as its eight numbers, everything else as it is.
template <class Field>
using Wire = std::conditional_t<std::is_pointer_v<Field>, uintptr_t,
                                std::conditional_t<std::is_same_v<Field, Code>, Numbers, Field>>;

template <class Field>
Field field(Wire<Field> value) {
  if constexpr (std::is_pointer_v<Field>) {
    return reinterpret_cast<Field>(value);
  } else if constexpr (std::is_same_v<Field, Code>) {
    return {value[0], value[1], value[2], value[3], value[4], value[5], value[6], value[7]};
  } else {
    return value;
  }
}

#ifdef FG_HAVE_CUDA
void raise(const char* error) {
  if (error) throw std::runtime_error(std::string("CUDA launch failed: ") + error);
}
#endif

// Python functions that take the fields of Arguments in their order, then the threads or the stream.
template <class Arguments, class... Fields>
struct Binding {
  static auto cpu(void (*Operations::*operation)(const Arguments&, int)) {
    return [operation](Wire<Fields>... fields, int threads) {
      py::gil_scoped_release released;
      (operations().*operation)(Arguments{field<Fields>(fields)...}, threads);
    };
  }
#ifdef FG_HAVE_CUDA
  static auto cuda(const char* (*operation)(const Arguments&, void*)) {
    return [operation](Wire<Fields>... fields, uintptr_t stream) {
      raise(operation(Arguments{field<Fields>(fields)...}, field<void*>(stream)));
    };
  }
  static auto cuda(const char* (*operation)(const Arguments&, float*, void*)) {
    return [operation](Wire<Fields>... fields, uintptr_t scratch, uintptr_t stream) {
      const Arguments arguments{field<Fields>(fields)...};
      raise(operation(arguments, field<float*>(scratch), field<void*>(stream)));
    };
  }
#endif
};

using In = const float*;
using Out = float*;
using Size = int64_t;
using Flag = int;
using Real = float;
using AnyIn = const void*;
using AnyOut = void*;

using Warp = Binding<WarpArguments, In, In, Out, Size, Size, Size, Size, Flag, Flag>;
using Predict = Binding<PredictArguments, In, In, In, In, In, In, Out, Out, Out, Out, Size, Size, Size, Size, Size,
                        Size, Flag, Flag, Real, Real, Real, Real, Real, Real>;
using Compose = Binding<ComposeArguments, In, In, In, In, Out, Out, Size, Size, Size>;
using Composite = Binding<CompositeArguments, In, In, Out, Out, Size, Size, Size, Size, Size, Flag>;
using Fill = Binding<FillArguments, In, In, Out, Size, Size, Size, Size>;
using GuidedStep = Binding<GuidedStepArguments, AnyIn, AnyIn, AnyIn, AnyIn, AnyIn, AnyIn, In, In, AnyOut, AnyOut, Size,
                           Size, Size, Size, Flag, Flag>;
using CarryNoise = Binding<CarryNoiseArguments, In, In, In, Out, Out, Size, Size, Size, Size, Size>;
using Paste = Binding<PasteArguments, In, In, In, Out, Size, Size, Size, Size, Size, Flag, Real>;
using ToModel = Binding<ToModelArguments, AnyIn, AnyIn, Out, Size, Size, Size, Size, Size, Size, Size, Size, Size, Size,
                        Size, Size, Size, Flag, Code>;
using FromModel = Binding<FromModelArguments, In, AnyOut, AnyOut, Size, Size, Size, Size, Size, Flag, Code>;

void force_isa(const std::string& name) {
  if (!use_isa(name.c_str())) {
    throw std::invalid_argument("FLOWGUIDE_ISA should be avx512, avx2 or base, one this processor has, got '" + name +
                                "'.");
  }
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  const char* forced = std::getenv("FLOWGUIDE_ISA");
  force_isa(forced ? forced : "");
  m.def("isa", &isa, "The instruction set in force.");
  m.def("use_isa", &force_isa, "Forces an instruction set; '' takes the best.");

  using O = Operations;
  m.def("warp_cpu", Warp::cpu(&O::warp));
  m.def("predict_cpu", Predict::cpu(&O::predict));
  m.def("compose_cpu", Compose::cpu(&O::compose));
  m.def("composite_cpu", Composite::cpu(&O::composite));
  m.def("fill_cpu", Fill::cpu(&O::fill));
  m.def("guided_step_cpu", GuidedStep::cpu(&O::guided_step));
  m.def("carry_noise_cpu", CarryNoise::cpu(&O::carry_noise));
  m.def("paste_cpu", Paste::cpu(&O::paste));
  m.def("to_model_cpu", ToModel::cpu(&O::to_model));
  m.def("from_model_cpu", FromModel::cpu(&O::from_model));
#ifdef FG_HAVE_CUDA
  m.def("warp_cuda", Warp::cuda(&warp_cuda));
  m.def("predict_cuda", Predict::cuda(&predict_cuda));
  m.def("to_model_cuda", ToModel::cuda(&to_model_cuda));
  m.def("from_model_cuda", FromModel::cuda(&from_model_cuda));
#endif
}
