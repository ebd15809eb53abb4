// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ChildArg is the first argument of a program that has to call Serve with the
// second one.
const ChildArg = "measure-child"

// A Child is this program once more, in a process and on a host of its own,
// so that what it costs can be told from everything else. It does what it is
// asked, one thing after the other, and ends with its standard input.
type Child struct {
	role string
	cmd  *exec.Cmd
	in   io.WriteCloser
	enc  *json.Encoder
	dec  *json.Decoder
	said tail
}

// request and reply are what goes over the pipes, a line of JSON each.
type (
	request struct {
		Do   string          `json:"do"`
		With json.RawMessage `json:"with,omitempty"`
	}
	reply struct {
		Error string          `json:"error,omitempty"`
		Value json.RawMessage `json:"value,omitempty"`
	}
)

// Start starts a child in the host. env is added to the environment.
func (h *Host) Start(role string, env ...string) (*Child, error) { return start(h.Launch, role, env) }

// StartHere starts a child where this process is, which needs no rights.
func StartHere(role string, env ...string) (*Child, error) {
	return start(func(cmd *exec.Cmd) error {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as Launch has it
		return cmd.Start()
	}, role, env)
}

func start(launch func(*exec.Cmd) error, role string, env []string) (*Child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &Child{role: role, cmd: exec.Command(self, ChildArg, role)}
	c.cmd.Env = append(os.Environ(), env...)
	c.cmd.Stderr = &c.said
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := launch(c.cmd); err != nil {
		return nil, fmt.Errorf("%s: %w", role, err)
	}
	c.enc, c.dec = json.NewEncoder(c.in), json.NewDecoder(out)
	return c, nil
}

// Launch starts a program in the host, in a process group of its own: what the
// terminal interrupts is this program alone. It ends with the host at the latest.
func (h *Host) Launch(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // of the host's thread
	return h.Do(cmd.Start)
}

// PID returns the child's process.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Ask has the child do something, and takes the answer into value unless that
// is nil. A child that does not answer until ctx is done is killed.
func (c *Child) Ask(ctx context.Context, do string, with, value any) error {
	r := request{Do: do}
	if with != nil {
		b, err := json.Marshal(with)
		if err != nil {
			return err
		}
		r.With = b
	}
	done := make(chan error, 1)
	var got reply
	go func() {
		err := c.enc.Encode(r)
		if err == nil {
			err = c.dec.Decode(&got)
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			c.Kill()
			return fmt.Errorf("%s: %s: the process ended (%w)%s", c.role, do, err, c.said.after())
		}
	case <-ctx.Done():
		c.Kill()
		<-done
		return fmt.Errorf("%s: %s: %w%s", c.role, do, context.Cause(ctx), c.said.after())
	}
	if got.Error != "" {
		return fmt.Errorf("%s: %s: %s", c.role, do, got.Error)
	}
	if value == nil {
		return nil
	}
	return json.Unmarshal(got.Value, value)
}

// Kill ends the child at once.
func (c *Child) Kill() {
	c.in.Close()
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

// Said returns the end of what the child wrote to standard error.
func (c *Child) Said() string { return c.said.String() }

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > 16<<10 {
		t.b = append(t.b[:0], t.b[len(t.b)-8<<10:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}

func (t *tail) after() string {
	if s := t.String(); s != "" {
		return ": " + s
	}
	return ""
}

// A role is what a child can be asked: each method by its name. ctx is done when
// standard input ends.
type (
	role   map[string]method
	method func(ctx context.Context, with json.RawMessage) (any, error)
)

// taking returns the method that calls f with what it is asked with.
func taking[T any](f func(context.Context, T) (any, error)) method {
	return func(ctx context.Context, with json.RawMessage) (any, error) {
		var v T
		if err := json.Unmarshal(with, &v); err != nil {
			return nil, err
		}
		return f(ctx, v)
	}
}

// Serve is a child's life: it does what it is asked on in, and answers on out.
func Serve(name string, in io.Reader, out io.Writer) error {
	make, known := roles[name]
	if !known {
		return fmt.Errorf("measure: no role %q", name)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	todo := readRequests(in, stop)
	methods := make()
	enc := json.NewEncoder(out)
	for r := range todo {
		var answer reply
		value, err := any(nil), error(nil)
		if f, known := methods[r.Do]; known {
			value, err = f(ctx, r.With)
		} else {
			err = errors.New("it is not asked that")
		}
		if err == nil && value != nil {
			answer.Value, err = json.Marshal(value)
		}
		if err != nil {
			answer = reply{Error: err.Error()}
		}
		if err := enc.Encode(answer); err != nil {
			return err
		}
	}
	return nil
}

// readRequests reads ahead, so that the end of input is noticed while something
// is done.
func readRequests(in io.Reader, end func()) <-chan request {
	c := make(chan request)
	go func() {
		defer close(c)
		defer end()
		dec := json.NewDecoder(in)
		for {
			var r request
			if dec.Decode(&r) != nil {
				return
			}
			c <- r
		}
	}()
	return c
}

// within is how long a child may take for what takes d.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d+20*time.Second, fmt.Errorf("no answer in %v", d+20*time.Second))
}
