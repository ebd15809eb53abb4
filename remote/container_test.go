// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A fakeHost is a tree of files as a host with containers has them.
type fakeHost struct {
	t    *testing.T
	root string
}

func (h fakeHost) file(path, text string) {
	h.t.Helper()
	path = filepath.Join(h.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// process makes one with its cgroups and a network namespace; those of one
// namespace share a file, as the kernel's do.
func (h fakeHost) process(pid int, started uint64, namespace string, cgroup ...string) {
	h.t.Helper()
	dir := fmt.Sprintf("proc/%d", pid)
	h.file(dir+"/stat", fmt.Sprintf("%d (a) b (c) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %d 0 0\n", pid, started))
	h.file(dir+"/cgroup", strings.Join(cgroup, "\n")+"\n")
	h.file("namespaces/"+namespace, "")
	if err := os.MkdirAll(filepath.Join(h.root, dir, "ns"), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(h.root, "namespaces", namespace), filepath.Join(h.root, dir, "ns/net")); err != nil {
		h.t.Fatal(err)
	}
}

func id(c string) string { return strings.Repeat(c, 64) }

// Containers of each runtime are found by ID, by the beginning of one and by
// name, from files alone: Docker with both cgroup drivers, containerd's CRI,
// CRI-O, Podman, nerdctl, crun, runc, LXC, systemd-nspawn. Of a container's processes it is
// the oldest; what watches it from outside is none of them.
func TestFindContainer(t *testing.T) {
	h := fakeHost{t, t.TempDir()}
	a, b, c, d, e, f := id("a"), id("b"), id("c"), id("d"), id("e"), "f1"+id("f")[2:]
	h.process(1, 1, "host", "0::/init.scope")
	h.process(90, 5, "host", "0::/system.slice/ssh.service")
	h.process(101, 40, "a", "12:cpuset:/docker/"+a, "0::/docker/"+a)
	h.process(100, 50, "a", "12:cpuset:/docker/"+a, "0::/docker/"+a) // younger, though its PID is lower
	h.process(110, 60, "b", "0::/system.slice/docker-"+b+".scope/init")
	h.process(120, 70, "c", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-"+c+".scope")
	h.process(121, 71, "c", "0::/kubepods/besteffort/pod1/"+d) // another container of that pod: one namespace
	h.process(130, 72, "host", "0::/machine.slice/crio-conmon-"+e+".scope")
	h.process(131, 73, "e", "0::/../../kubepods.slice/crio-"+e+".scope") // seen from another cgroup namespace
	h.process(140, 74, "f", "0::/machine.slice/libpod-"+f+".scope/container")
	h.process(141, 70, "host", "0::/machine.slice/libpod-conmon-"+f+".scope")
	h.process(150, 80, "lxc", "0::/lxc.payload.box/system.slice")
	h.process(151, 79, "host", "0::/lxc.monitor.box")
	h.process(160, 81, "nspawn", `0::/machine.slice/machine-my\x2dbox.scope/payload`)
	h.process(170, 90, "hidden", "0::/") // in a cgroup namespace that shows nothing
	h.file("var/lib/docker/containers/"+a+"/config.v2.json", `{"ID":"`+a+`","Name":"/web","State":{"Running":true,"Pid":101}}`)
	h.file("var/lib/docker/containers/"+b+"/config.v2.json", `{"ID":"`+b+`","Name":"/db","State":{"Running":true,"Pid":99999}}`)
	h.file("var/lib/docker/containers/"+id("9")+"/config.v2.json", `{"ID":"`+id("9")+`","Name":"/secret","State":{"Running":true,"Pid":170}}`)
	h.file("var/lib/docker/containers/"+id("8")+"/config.v2.json", `{"ID":"`+id("8")+`","Name":"/ended","State":{"Running":false,"Pid":0}}`)
	h.file("var/lib/docker/containers/broken/config.v2.json", `{"ID":`)
	h.file("var/lib/containers/storage/overlay-containers/containers.json", `[{"id":"`+f+`","names":["pod man","cache"]}]`)
	h.file("run/containerd/io.containerd.runtime.v2.task/k8s.io/"+c+"/config.json",
		`{"annotations":{"io.kubernetes.cri.container-name":"app","io.kubernetes.cri.sandbox-name":"shop-1","io.kubernetes.cri.sandbox-namespace":"prod"}}`)
	h.file("run/containerd/io.containerd.runtime.v2.task/default/"+id("7")+"/config.json", `{"annotations":{"nerdctl/name":"nerd"}}`)
	h.file("run/containerd/io.containerd.runtime.v2.task/default/"+id("7")+"/init.pid", "131")
	h.process(180, 91, "crun", "0::/")
	h.process(181, 92, "runc", "0::/")
	h.file("run/crun/bare/status", `{"pid":180,"process-start-time":91}`)
	h.file("run/crun/reused/status", `{"pid":181,"process-start-time":17}`) // the PID is another process's by now
	h.file("run/runc/raw/state.json", `{"id":"raw","init_process_pid":181,"init_process_start":92}`)
	h.file("var/log/containers/shop-1_prod_sidecar-"+d+".log", "")
	h.file("var/log/containers/web-7_prod_app-"+e+".log", "")
	// Other places: k3s, Docker's snap, Podman with another driver and --rm, and
	// the containers of a user.
	g := func(n int) string { return fmt.Sprintf("%064x", 0xabc0+n) }
	for n, cgroup := range []string{"/kubepods/pod2/" + g(0), "/docker/" + g(1), "/machine.slice/libpod-" + g(2) + ".scope",
		"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + g(3) + ".scope", "/user.slice/user-1000.slice/user@1000.service/docker-" + g(4) + ".scope"} {
		h.process(200+n, uint64(100+n), fmt.Sprint("g", n), "0::"+cgroup)
	}
	h.file("run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/"+g(0)+"/config.json",
		`{"annotations":{"io.kubernetes.cri.container-name":"edge","io.kubernetes.cri.sandbox-name":"edge-1","io.kubernetes.cri.sandbox-namespace":"prod"}}`)
	h.file("var/snap/docker/common/var-lib-docker/containers/"+g(1)+"/config.v2.json", `{"ID":"`+g(1)+`","Name":"/snapped","State":{"Running":true,"Pid":201}}`)
	h.file("var/lib/containers/storage/vfs-containers/volatile-containers.json", `[{"id":"`+g(2)+`","names":["brief"]}]`)
	h.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nbroken\nalice:x:1000:1000:,,,:/home/alice:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\n")
	h.file("home/alice/.local/share/containers/storage/overlay-containers/containers.json", `[{"id":"`+g(3)+`","names":["mine","web"]}]`)
	h.file("home/alice/.local/share/docker/containers/"+g(4)+"/config.v2.json", `{"ID":"`+g(4)+`","Name":"/hers","State":{"Running":true,"Pid":204}}`)
	// A user's word for a process is not taken, nor a file that would not end.
	h.file("home/alice/.local/share/docker/containers/"+g(5)+"/config.v2.json", `{"ID":"`+g(5)+`","Name":"/forged","State":{"Running":true,"Pid":1}}`)
	fifo := filepath.Join(h.root, "home/alice/.local/share/containers/storage/vfs-containers/containers.json")
	if err := errors.Join(os.Mkdir(filepath.Dir(fifo), 0o755), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	host := &containers{root: h.root}
	for _, v := range []struct {
		name string
		pid  int
		says string // in the error
	}{
		{a, 101, ""}, {a[:12], 101, ""}, {"web", 101, ""},
		{b, 110, ""}, {b[:12], 110, ""}, {"db", 110, ""},
		{c[:12], 120, ""}, {"shop-1", 120, ""}, {"prod/shop-1", 120, ""}, {"prod/shop-1/app", 120, ""}, {"sidecar", 121, ""},
		{e, 131, ""}, {"web-7", 131, ""}, {"prod/web-7/app", 131, ""},
		{f[:12], 140, ""}, {"cache", 140, ""},
		{"nerd", 131, ""}, {"box", 150, ""}, {"my-box", 160, ""}, {"secret", 170, ""},
		{"bare", 180, ""}, {"raw", 181, ""},
		{"prod/edge-1/edge", 200, ""}, {"snapped", 201, ""}, {"brief", 202, ""}, {"mine@alice", 203, ""}, {"hers@alice", 204, ""},
		{g(3), 203, ""}, {"web@alice", 203, ""}, // root's is another
		{"mine", 0, "no such container"}, {"mine@bob", 0, "no such container"}, {"forged@alice", 0, "no such container"}, {"box@alice", 0, "no such container"},
		{"mine@eve", 0, "no such user"}, {"mine@", 0, "no such user"},
		{"app", 0, "belong to different ones"}, // in two pods
		{"reused", 0, "no such container"},
		{"ended", 0, "no such container"}, {"nobody", 0, "known here: app, bare, brief, cache, db, "}, {id("1")[:12], 0, "no such container"},
		{"", 0, "no such container"}, {"../../etc", 0, "no such container"},
	} {
		pid, err := host.find(v.name)
		if pid != v.pid || (err == nil) != (v.says == "") || err != nil && !strings.Contains(err.Error(), v.says) {
			t.Errorf("%q: %d, %v; want %d %s", v.name, pid, err, v.pid, v.says)
		}
	}
	if _, err := host.started(100); err != nil {
		t.Error(err)
	}
	h.file("proc/100/stat", "100 (a) Z 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 40 0 0\n")
	if _, err := host.started(100); err == nil {
		t.Error("a process that ended is taken for one that runs")
	}
}

// A daemon is asked where files do not tell; one that does not answer holds
// nothing up for long.
func TestFindContainerAsksDaemon(t *testing.T) {
	h := fakeHost{t, t.TempDir()}
	h.process(7, 1, "x", "0::/")
	asked := ""
	listen := func(name string) net.Listener {
		l, err := net.Listen("unix", filepath.Join(h.root, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	go http.Serve(listen("docker.sock"), http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if asked = q.URL.Path; asked != "/containers/web/json" {
			http.Error(w, `{"message":"no such container"}`, http.StatusNotFound)
			return
		}
		fmt.Fprint(w, `{"Id":"x","State":{"Pid":7}}`)
	}))
	listen("mute.sock")
	host := &containers{root: h.root, wait: 5 * time.Second, // for the one that answers: it may be interrupted meanwhile
		sockets: []string{filepath.Join(h.root, "none.sock"), filepath.Join(h.root, "mute.sock"), filepath.Join(h.root, "docker.sock")}}
	if pid, err := host.find("web"); pid != 7 || err != nil {
		t.Errorf("%d, %v (asked for %q)", pid, err, asked)
	}
	host.wait = 100 * time.Millisecond // enough for one that does not
	if pid, err := host.find("other"); pid != 0 || err == nil || !strings.Contains(err.Error(), "mute.sock does not answer") {
		t.Errorf("%d, %v", pid, err)
	}
}
