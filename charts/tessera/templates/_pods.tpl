{{/*
What the pods of all three processes share. The operator and the scheduler satisfy the "restricted" Pod Security
Standard with these contexts; the agent has its own (templates/agent/daemonset.yaml says why, line by line).
*/}}
{{- define "tessera.restrictedPodSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "tessera.restrictedContainerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Who and where the pod is. POD_NAME is also the identity in the Lease: the fencing policy compares the two. */}}
{{- define "tessera.podEnvironment" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- end }}

{{/*
One port for probes and metrics, 8080: unprivileged, so that a non-root process may listen on it, and nothing else of
Tessera is served, so one is enough.
*/}}
{{- define "tessera.ports" -}}
- name: http
  containerPort: 8080
  protocol: TCP
{{- end }}

{{/* /healthz: the process makes progress; /readyz: it can do its work, or wait for the Lease as a stand-by. */}}
{{- define "tessera.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
{{- end }}

{{/* Where the pod may run and what it is worth. Takes a process' values (operator, scheduler or agent). */}}
{{- define "tessera.scheduling" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Replicas on different nodes where there are several; soft, so that a one-node cluster runs both. */}}
{{- define "tessera.spread" -}}
topologySpreadConstraints:
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "tessera.selectorLabels" . | nindent 6 }}
{{- end }}
