// SPDX-License-Identifier: Apache-2.0

package docs_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// The Job of the shards is one that the API knows, with a pod for each shard.
func TestTheJobOfShardsHasAPodForEach(t *testing.T) {
	text, err := os.ReadFile("shards.yaml")
	require.NoError(t, err)
	objects := strings.Split(string(text), "\n---\n")
	require.Len(t, objects, 2)
	var claim corev1.PersistentVolumeClaim
	require.NoError(t, yaml.UnmarshalStrict([]byte(objects[0]), &claim))
	var job batchv1.Job
	require.NoError(t, yaml.UnmarshalStrict([]byte(objects[1]), &job))

	require.Equal(t, batchv1.IndexedCompletion, *job.Spec.CompletionMode)
	require.Equal(t, *job.Spec.Completions, *job.Spec.Parallelism)
	pod := job.Spec.Template.Spec
	require.Equal(t, claim.Name, pod.Volumes[0].PersistentVolumeClaim.ClaimName)
	require.Contains(t, pod.Containers[0].Env, corev1.EnvVar{Name: "SHARDS", Value: "5"})
	require.EqualValues(t, 5, *job.Spec.Completions)
	require.Contains(t, pod.Containers[0].Args[0], "--shard $part/$SHARDS")
}
