// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// candidates returns the containers that files tell of.
func (c *containers) candidates() []candidate {
	return slices.Concat(c.docker("var/lib/docker"), c.docker("var/snap/docker/common/var-lib-docker"),
		c.podman("var/lib/containers/storage"), c.podman("run/containers/storage"), c.bundles(), c.runtimes(), c.logs())
}

// docker reads what dockerd keeps of each container (moby, container/container.go).
func (c *containers) docker(root string) (out []candidate) {
	dir := filepath.Join(root, "containers")
	for _, id := range c.list(dir) {
		var state struct {
			ID, Name string
			State    struct {
				Running bool
				Pid     int
			}
		}
		if c.json(filepath.Join(dir, id, "config.v2.json"), &state) == nil && state.ID != "" {
			k := candidate{id: state.ID, names: []string{strings.TrimPrefix(state.Name, "/")}}
			if state.State.Running {
				k.pid = state.State.Pid
			}
			out = append(out, k)
		}
	}
	return out
}

// podman reads the lists of containers/storage (containers.go there): of each
// storage driver, and with a list of its own for what goes when it ends
// (podman run --rm).
func (c *containers) podman(root string) (out []candidate) {
	for _, driver := range c.list(root) {
		if !strings.HasSuffix(driver, "-containers") {
			continue
		}
		for _, name := range []string{"containers.json", "volatile-containers.json"} {
			var list []struct {
				ID    string   `json:"id"`
				Names []string `json:"names"`
			}
			if c.json(filepath.Join(root, driver, name), &list) == nil {
				for _, k := range list {
					out = append(out, candidate{id: k.ID, names: k.Names})
				}
			}
		}
	}
	return out
}

// rootless reads what Podman and Docker keep of the containers of one user. It
// is the user's word: names and IDs are taken of it, and no process. That a
// cgroup has to tell, and the user's daemon is not asked.
func (c *containers) rootless(home string) []candidate {
	all := slices.Concat(c.podman(filepath.Join(home, ".local/share/containers/storage")), c.docker(filepath.Join(home, ".local/share/docker")))
	for i := range all {
		all[i].pid = 0
	}
	return all
}

// home returns that of one of the host's users (passwd(5)).
func (c *containers) home(user string) (string, error) {
	text, err := c.read("etc/passwd")
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) == 7 && f[0] == user {
			return f[5], nil
		}
	}
	return "", errors.Join(fmt.Errorf("remote: container of user %q: /etc/passwd has no such user", user), err)
}

// bundles reads the annotations of the containers that containerd runs
// (io.containerd.runtime.v2.task/NAMESPACE/ID), as its CRI plugin and nerdctl
// write them.
func (c *containers) bundles() (out []candidate) {
	for _, state := range containerd {
		dir := filepath.Join(state, "io.containerd.runtime.v2.task")
		for _, namespace := range c.list(dir) {
			for _, id := range c.list(filepath.Join(dir, namespace)) {
				if k, ok := c.bundle(filepath.Join(dir, namespace, id), id); ok {
					out = append(out, k)
				}
			}
		}
	}
	return out
}

// containerd are the folders of its state: its own, and those of k3s and RKE2,
// of k0s, and of MicroK8s.
var containerd = []string{"run/containerd", "run/k3s/containerd", "run/k0s/containerd", "var/snap/microk8s/common/run/containerd"}

func (c *containers) bundle(at, id string) (k candidate, ok bool) {
	var config struct{ Annotations map[string]string }
	if c.json(filepath.Join(at, "config.json"), &config) != nil {
		return k, false
	}
	a := config.Annotations
	k = candidate{id: id, names: podNames(a["io.kubernetes.cri.sandbox-namespace"], a["io.kubernetes.cri.sandbox-name"], a["io.kubernetes.cri.container-name"])}
	if name := a["nerdctl/name"]; name != "" {
		k.names = append(k.names, name)
	}
	if text, err := c.read(filepath.Join(at, "init.pid")); err == nil {
		k.pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	return k, true
}

// runtimes reads what crun (container_status, libcrun/status.c) and runc
// (libcontainer/container_linux.go) keep of containers that are run without
// anything above them: their names are their IDs.
func (c *containers) runtimes() (out []candidate) {
	for _, id := range c.list("run/crun") {
		var state struct {
			Pid   int    `json:"pid"`
			Began uint64 `json:"process-start-time"`
		}
		if c.json(filepath.Join("run/crun", id, "status"), &state) == nil {
			out = append(out, candidate{id, []string{id}, state.Pid, state.Began})
		}
	}
	for _, id := range c.list("run/runc") {
		var state struct {
			Pid   int    `json:"init_process_pid"`
			Began uint64 `json:"init_process_start"`
		}
		if c.json(filepath.Join("run/runc", id, "state.json"), &state) == nil {
			out = append(out, candidate{id, []string{id}, state.Pid, state.Began})
		}
	}
	return out
}

// logs reads the names of the links that the kubelet makes, for every runtime:
// POD_NAMESPACE_CONTAINER-ID.log.
func (c *containers) logs() (out []candidate) {
	for _, name := range c.list("var/log/containers") {
		name, ok := strings.CutSuffix(name, ".log")
		parts := strings.Split(name, "_")
		if !ok || len(parts) != 3 {
			continue
		}
		if i := strings.LastIndex(parts[2], "-"); i > 0 {
			out = append(out, candidate{id: parts[2][i+1:], names: podNames(parts[1], parts[0], parts[2][:i])})
		}
	}
	return out
}
