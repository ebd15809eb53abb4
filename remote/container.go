// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Chosen.
const (
	daemonWait = 2 * time.Second // for a container daemon to answer
	maxState   = 16 << 20        // bytes of a file of a container's state, or of an answer
	maxEntries = 1 << 16         // of a folder
	minID      = 6               // letters of an ID: fewer are a name
)

// Containers are those of a host, as its files tell of them. No daemon is
// needed: a container is the processes in its cgroup.
type containers struct {
	root    string        // of the host's files: "/"
	sockets []string      // of daemons that speak Docker's API
	wait    time.Duration // for one of them to answer
}

func hostContainers() *containers {
	return &containers{root: "/", sockets: []string{"/run/docker.sock", "/run/podman/podman.sock"}, wait: daemonWait}
}

// A candidate is what some file says of a container that may be meant.
type candidate struct {
	id    string
	names []string
	pid   int    // 0: not said
	began uint64 // clock ticks since boot, of that process; 0: not said
}

func (c *candidate) called(name string) bool {
	return slices.Contains(c.names, name) || len(name) >= minID && isHex(name) && strings.HasPrefix(c.id, name)
}

// find returns the first process of the container that is called name: an ID,
// or the beginning of one; a name that Docker, Podman or nerdctl gave it; in
// Kubernetes a container, a pod, namespace/pod or namespace/pod/container; a
// container of LXC or a machine of systemd-nspawn. name@user is a container that
// user runs by Podman or Docker without root.
func (c *containers) find(name string) (pid int, err error) {
	whole := name
	name, user, rootless := strings.Cut(name, "@")
	all, sockets := c.candidates, c.sockets
	if rootless {
		home, err := c.home(user)
		if err != nil {
			return 0, err
		}
		all, sockets = func() []candidate { return c.rootless(home) }, nil
	}
	return c.among(name, whole, all(), sockets)
}

// among finds the container that is called name among candidates, or else by
// the daemons of sockets.
func (c *containers) among(name, whole string, all []candidate, sockets []string) (pid int, err error) {
	processes := c.processes()
	var found []candidate
	for _, k := range all {
		if k.called(name) {
			found = append(found, k)
		}
	}
	if len(name) >= minID && isHex(name) {
		found = append(found, candidate{id: name})
	}
	var pids []int
	add := func(pid int) {
		if pid > 0 && !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	for _, k := range found {
		p := first(processes, func(component string) bool { return idIn(component, k.id) })
		if p == 0 && k.pid > 0 {
			if at, err := c.started(k.pid); err == nil && (k.began == 0 || k.began == at) { // cgroups may not tell here
				p = k.pid
			}
		}
		add(p)
	}
	if len(pids) == 0 && name != "" && name == whole {
		add(first(processes, func(component string) bool { return machine(component) == name }))
	}
	var daemons error
	if len(pids) == 0 && name != "" {
		var p int
		p, daemons = c.ask(name, sockets)
		add(p)
	}
	switch pids = c.apart(pids); len(pids) {
	case 1:
		return pids[0], nil
	case 0:
		return 0, c.missing(whole, all, daemons)
	}
	return 0, fmt.Errorf("remote: container %q: processes %s belong to different ones of that name: give an ID, namespace/pod, or --netns PID",
		whole, strings.Trim(fmt.Sprint(pids), "[]"))
}

// apart leaves one process for each network namespace.
func (c *containers) apart(pids []int) (out []int) {
	var known []fs.FileInfo
next:
	for _, pid := range pids {
		at, err := os.Stat(c.namespace(pid))
		if err != nil {
			continue
		}
		for _, k := range known {
			if os.SameFile(k, at) {
				continue next
			}
		}
		known, out = append(known, at), append(out, pid)
	}
	return out
}

func (c *containers) namespace(pid int) string {
	return filepath.Join(c.root, "proc", strconv.Itoa(pid), "ns/net")
}

func (c *containers) missing(name string, all []candidate, daemons error) error {
	var names []string
	for _, k := range all {
		names = append(names, k.names...)
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) > 20 {
		names = append(names[:20], "…")
	}
	says := ""
	if len(names) > 0 {
		says = "; known here: " + strings.Join(names, ", ")
	}
	if daemons != nil {
		says += "; " + daemons.Error()
	}
	if os.Geteuid() != 0 {
		says += "; only root may look into containers' files"
	}
	return fmt.Errorf("remote: container %q: no such container runs here%s; the PID of one of its processes does as well: --netns PID", name, says)
}

// A process is one with the components of its cgroups.
type process struct {
	pid     int
	started uint64 // clock ticks since boot
	cgroups []string
}

// processes returns those of the host.
func (c *containers) processes() (out []process) {
	for _, name := range c.list("proc") {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		text, err := c.read(filepath.Join("proc", name, "cgroup")) // cgroups(7): hierarchy:controllers:path
		if err != nil {
			continue
		}
		p := process{pid: pid}
		for line := range strings.Lines(string(text)) {
			if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 {
				for component := range strings.SplitSeq(parts[2], "/") {
					if component != "" && !slices.Contains(p.cgroups, component) {
						p.cgroups = append(p.cgroups, component)
					}
				}
			}
		}
		if p.started, err = c.started(pid); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// started returns when a process did (proc(5), stat, field 22). With the PID it
// says which process it is: PIDs come again.
func (c *containers) started(pid int) (uint64, error) {
	text, err := c.read(filepath.Join("proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	at := max(strings.LastIndex(string(text), ") "), 0) // the name before it may hold anything
	fields := strings.Fields(strings.TrimPrefix(string(text)[at:], ")"))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0, fs.ErrNotExist // it ended
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// first returns the oldest process in a cgroup for which is holds; 0: none.
func first(all []process, is func(component string) bool) int {
	best := process{}
	for _, p := range all {
		if slices.ContainsFunc(p.cgroups, is) && (best.pid == 0 || p.started < best.started || p.started == best.started && p.pid < best.pid) {
			best = p
		}
	}
	return best.pid
}

// idIn says that a cgroup is that of the container of an ID, or of the
// beginning of one: ID, docker-ID.scope, cri-containerd-ID.scope,
// crio-ID.scope, libpod-ID.scope, …:cri-containerd:ID. A conmon beside it
// watches the container from outside.
func idIn(component, id string) bool {
	if strings.Contains(component, "conmon") {
		return false
	}
	component = strings.TrimSuffix(component, ".scope")
	component = component[strings.LastIndexAny(component, "-:")+1:]
	return component == id || len(component) >= 32 && isHex(component) && strings.HasPrefix(component, id)
}

// machine returns the name of a container of LXC or systemd-nspawn that a
// cgroup belongs to.
func machine(component string) string {
	if name, ok := strings.CutPrefix(component, "lxc.payload."); ok {
		return name
	}
	if name, ok := strings.CutPrefix(component, "machine-"); ok {
		return strings.ReplaceAll(strings.TrimSuffix(name, ".scope"), `\x2d`, "-")
	}
	if name, ok := strings.CutPrefix(component, "systemd-nspawn@"); ok {
		return strings.ReplaceAll(strings.TrimSuffix(name, ".service"), `\x2d`, "-")
	}
	return ""
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

// podNames are the names by which a container of a pod is found.
func podNames(namespace, pod, container string) (names []string) {
	if pod != "" {
		names = append(names, pod, namespace+"/"+pod)
	}
	if container != "" {
		names = append(names, container, namespace+"/"+pod+"/"+container)
	}
	return names
}

// ask asks the daemons that speak Docker's API. The error says which of them
// gave no answer.
func (c *containers) ask(name string, sockets []string) (pid int, err error) {
	for _, socket := range sockets {
		if _, e := os.Stat(socket); e != nil {
			continue
		}
		pid, e := askDaemon(socket, name, c.wait)
		if pid > 0 {
			return pid, nil
		}
		err = errors.Join(err, e)
	}
	return 0, err
}

func askDaemon(socket, name string, wait time.Duration) (pid int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://daemon/containers/"+url.PathEscape(name)+"/json", nil)
	if err != nil {
		return 0, err
	}
	a, err := client.Do(q)
	if err != nil {
		return 0, fmt.Errorf("%s does not answer: %w", socket, err)
	}
	defer a.Body.Close()
	var state struct{ State struct{ Pid int } }
	if a.StatusCode != http.StatusOK {
		return 0, nil // no such container
	}
	if err := json.NewDecoder(io.LimitReader(a.Body, maxState)).Decode(&state); err != nil {
		return 0, fmt.Errorf("%s: %w", socket, err)
	}
	return state.State.Pid, nil
}

// list returns the names in a folder of the host; none if it cannot be read.
func (c *containers) list(dir string) []string {
	f, err := os.Open(filepath.Join(c.root, dir))
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(maxEntries)
	slices.Sort(names)
	return names
}

// read reads a file of the host. It may be a user's: what is no file and would
// have the reader wait is none.
func (c *containers) read(path string) ([]byte, error) {
	f, err := os.OpenFile(filepath.Join(c.root, path), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if at, err := f.Stat(); err != nil || !at.Mode().IsRegular() {
		return nil, errors.Join(err, fs.ErrInvalid)
	}
	return io.ReadAll(io.LimitReader(f, maxState))
}

func (c *containers) json(path string, into any) error {
	text, err := c.read(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}
