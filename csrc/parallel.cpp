// A pool of detached threads that sleep between calls; several callers may use it at once.
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "image.h"
#include "parallel.h"

namespace flowguide {
namespace {

int this_processor() {
#ifdef __linux__
  return sched_getcpu();
#else
  static std::atomic<int> unknown{0};
  return unknown++;  // no two alike
#endif
}

struct Task {
  Work work;
  const void* context;
  int64_t jobs, step;
  int seats;  // workers that may still join
  Task* next = nullptr;
  int processor = this_processor();
  std::atomic<int> inside{0};  // workers that have joined and not left
  std::atomic<int64_t> taken{0};

  void help() {
    for (int64_t first; (first = taken.fetch_add(step)) < jobs;) {
      work(context, first, first + step < jobs ? first + step : jobs);
    }
  }
};

class Pool {
 public:
  void run(Task& task, int workers) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (; count_ < workers; ++count_) std::thread([this] { serve(); }).detach();
      task.next = tasks_;
      tasks_ = &task;
    }
    workers == 1 ? wake_.notify_one() : wake_.notify_all();
    task.help();
    withdraw(task);
    // What is left is at most one range of jobs a worker: to sleep would cost a wait for the processor as well.
    const auto patience = std::chrono::steady_clock::now() + std::chrono::microseconds(500);
    while (task.inside.load() != 0 && std::chrono::steady_clock::now() < patience) {
    }
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [&] { return task.inside.load() == 0; });
  }

 private:
  void withdraw(Task& task) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (Task** place = &tasks_; *place; place = &(*place)->next) {
      if (*place == &task) {
        *place = task.next;
        return;
      }
    }
  }

  Task* open_task() {
    for (Task* task = tasks_; task; task = task->next) {
      if (task->seats > 0 && task->taken.load() < task->jobs) return task;
    }
    return nullptr;
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      Task* task = nullptr;
      wake_.wait(lock, [&] { return (task = open_task()) != nullptr; });
      task->seats -= 1;
      if (this_processor() == task->processor) continue;  // here it would only take the caller's own time
      task->inside.fetch_add(1);
      lock.unlock();
      task->help();
      lock.lock();
      if (task->inside.fetch_sub(1) == 1) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Task* tasks_ = nullptr;
  int count_ = 0;
};

Pool* pool = nullptr;  // never destroyed: its threads may still sleep in it when the process ends

void make_pool() { pool = new Pool; }

}  // namespace

void run_parallel(int64_t jobs, int threads, Work work, const void* context) {
  if (threads <= 1 || jobs <= 1) return work(context, 0, jobs);
  static std::once_flag once;
  std::call_once(once, [] {
    make_pool();
    pthread_atfork(nullptr, nullptr, make_pool);  // a child has none of the threads
  });
  const int64_t step = jobs / (int64_t(threads) * 8);
  Task task{work, context, jobs, step > 0 ? step : 1, threads - 1};
  pool->run(task, threads - 1);
}

}  // namespace flowguide
