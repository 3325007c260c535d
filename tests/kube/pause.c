/* The first process of every pod: it holds the pod's namespaces and reaps what is left to it. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal) {
  (void)signal;
  _exit(0);
}

static void reap(int signal) {
  (void)signal;
  while (waitpid(-1, 0, WNOHANG) > 0) {
  }
}

int main(void) {
  struct sigaction ended = {.sa_handler = end};
  struct sigaction reaped = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP};
  sigaction(SIGINT, &ended, 0);
  sigaction(SIGTERM, &ended, 0);
  sigaction(SIGCHLD, &reaped, 0);
  for (;;) pause();
}
