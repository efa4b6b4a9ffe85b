// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/lab/cluster/traffic"
)

// fromOutside asks all node ports from this machine until it is told to stop,
// and fails for anything that is lost.
func (e *environment) fromOutside(t *testing.T) (stop func()) {
	targets := e.nodePortTargets(t)
	l := traffic.Load{Rate: requestsPerSecond / len(targets), Connections: 20, Every: 20 * time.Millisecond, Duration: 5 * time.Minute, Timeout: patience}
	ctx, cancel := context.WithCancel(t.Context())
	reports := make([]*traffic.Report, len(targets))
	var wait sync.WaitGroup
	for i, target := range targets {
		wait.Go(func() {
			asks := l
			asks.Target = target
			reports[i] = asks.Run(ctx)
		})
	}
	return func() {
		cancel()
		wait.Wait()
		e.lossless(t, reports)
	}
}

const (
	staticManifest = "/host/etc/kubernetes/manifests/kube-apiserver.yaml"
	outage         = 20 * time.Second
)

// withoutAPI takes the API server away for a while, and in it the agent of a
// node that has a server: it comes up again with nobody to ask.
func withoutAPI(e *environment, t *testing.T) {
	plane := e.soleControlPlane(t)
	node := e.nodes[len(e.nodes)-1].Name
	if node == plane {
		node = e.nodes[0].Name
	}
	stop := e.fromOutside(t)
	// Whoever does it is asked by the API: so it is done by itself.
	_, err := e.onNode(t.Context(), node, fmt.Sprintf(`setsid sh -c 'sleep %d
%s' >/dev/null 2>&1 &`, int(outage.Seconds())/2, killAgent))
	require.NoError(t, err)
	_, err = e.onNode(t.Context(), plane, fmt.Sprintf(`setsid sh -c 'mv %[1]s /host/etc/kubernetes/kube-apiserver.away
sleep %[2]d
mv /host/etc/kubernetes/kube-apiserver.away %[1]s' >/dev/null 2>&1 &`, staticManifest, int(outage.Seconds())))
	require.NoError(t, err)
	e.eventually(t, outage, "the API server is away", func(context.Context) (bool, string) {
		_, err := e.kube.Discovery().ServerVersion()
		return err != nil, "it answers"
	})
	e.eventually(t, 3*time.Minute, "the API server is back", func(context.Context) (bool, string) {
		_, err := e.kube.Discovery().ServerVersion()
		return err == nil, fmt.Sprint(err)
	})
	_, err = e.run(t.Context(), e.weir, "status", "--wait", "--timeout", "2m")
	require.NoError(t, err)
	require.NotZero(t, restartsOf(e.agentOf(t, node)), "the agent of %s was killed", node)
	stop()
	e.pod(t, "late", map[string]string{"app": "late"}, port)
	e.podsReady(t, e.ns, "app=late", 1, 2*time.Minute)
	require.NoError(t, e.kube.CoreV1().Pods(e.ns).Delete(t.Context(), "late", metav1.DeleteOptions{}))
}

// soleControlPlane skips the test where there is not one API server only, run
// by the kubelet of a node.
func (e *environment) soleControlPlane(t *testing.T) string {
	var found []string
	for _, n := range e.nodes {
		out, err := e.onNode(t.Context(), n.Name, "ls "+staticManifest+" 2>/dev/null || true")
		require.NoError(t, err)
		if strings.TrimSpace(out) != "" {
			found = append(found, n.Name)
		}
	}
	if len(found) != 1 {
		t.Skipf("%d nodes run the API server as a static pod, and not one: it cannot be taken away", len(found))
	}
	return found[0]
}

// restartNode restarts a node, whose pods come again.
func restartNode(e *environment, t *testing.T) {
	command := strings.Fields(os.Getenv(envRestart))
	if len(command) == 0 {
		t.Skip(envRestart + " names no command that restarts the node that is its last word")
	}
	node := e.nodes[len(e.nodes)-1].Name
	boot := bootOf(t, e, node)
	_, err := e.run(t.Context(), command[0], append(command[1:], node)...)
	require.NoError(t, err)
	e.eventually(t, 2*time.Minute, "node "+node+" is up again", func(ctx context.Context) (bool, string) {
		now, err := e.onNode(ctx, node, bootTime)
		if err != nil {
			return false, err.Error()
		}
		return now != boot, "it is not down yet"
	})
	_, err = e.run(t.Context(), e.weir, "status", "--wait", "--timeout", "2m")
	require.NoError(t, err)
	clients := e.podsReady(t, e.ns, "app=client", len(e.nodes), 2*time.Minute)
	e.podsReady(t, e.ns, "app=web", len(e.nodes), 2*time.Minute)
	for i := range clients {
		report := e.settled(t, &clients[i], traffic.Load{Target: "web:80", Rate: 40, Duration: 2 * time.Second, Timeout: 5 * time.Second})
		e.say("  %s -> web: %d answers of %d servers", clients[i].Spec.NodeName, report.Answered, len(report.By))
	}
	// What its pods had before is not left beside what they have now.
	e.eventually(t, time.Minute, "node "+node+" has an endpoint for each of its pods", func(ctx context.Context) (bool, string) {
		pods, err := e.kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
		if err != nil {
			return false, err.Error()
		}
		want := 0
		for _, pod := range pods.Items {
			if !pod.Spec.HostNetwork && pod.Status.Phase == corev1.PodRunning {
				want++
			}
		}
		out, err := e.onNode(ctx, node, "ls /host/var/lib/weir/endpoints | wc -l; ls /host/sys/class/net | grep -c '^weir'")
		return err == nil && out == fmt.Sprintf("%d\n%d\n", want, want), fmt.Sprintf("%d pods, records and devices %q, %v", want, out, err)
	})
}

// bootTime is when the node's first process began, in ticks of the kernel: a
// node that is a container has its machine's kernel.
const bootTime = `cut -d' ' -f22 /proc/1/stat`

func bootOf(t *testing.T, e *environment, node string) string {
	out, err := e.onNode(t.Context(), node, bootTime)
	require.NoError(t, err)
	return out
}
