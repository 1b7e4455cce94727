// Everything that a kernel sees in place of a GPU compiler: portable.cuh includes this file there.
#pragma once
#include "async_copy.hpp"
#include "atomics.hpp"
#include "barrier.hpp"
#include "matrix.hpp"
#include "numbers.hpp"
#include "shared_memory.hpp"
#include "types.hpp"
#include "warp.hpp"
