{{/*
Names that other parts of Tessera spell too. They are fixed, not derived from the release name: the admission policies,
the agent and the scheduler know them, and one cluster has one Tessera. The source of each is tessera/api/names.py; a test
compares them.
*/}}
{{- define "tessera.group" -}}tessera.dev{{- end }}
{{- define "tessera.driver" -}}gpu.tessera.dev{{- end }}
{{- define "tessera.deviceClass" -}}slice.tessera.dev{{- end }}
{{- define "tessera.deviceTaintKey" -}}tessera.dev/managed{{- end }}
{{- define "tessera.placementGate" -}}tessera.dev/placement{{- end }}
{{- define "tessera.namespaceGateLabel" -}}tessera.dev/gate{{- end }}
{{- define "tessera.movableAnnotation" -}}tessera.dev/movable{{- end }}
{{- define "tessera.moveAnnotation" -}}tessera.dev/move{{- end }}
{{- define "tessera.roomAnnotation" -}}tessera.dev/room{{- end }}
{{- define "tessera.claimFinalizer" -}}resource.kubernetes.io/delete-protection{{- end }}
{{- define "tessera.operatorServiceAccount" -}}tessera-operator{{- end }}
{{- define "tessera.schedulerServiceAccount" -}}tessera-scheduler{{- end }}
{{- define "tessera.agentServiceAccount" -}}tessera-agent{{- end }}
{{- define "tessera.fleetServiceAccount" -}}tessera-fleet{{- end }}
{{- define "tessera.operatorLease" -}}tessera-operator{{- end }}
{{- define "tessera.schedulerLease" -}}tessera-scheduler{{- end }}

{{/* The user name that the API server sees for a service account. Takes (list $ "service-account-name"). */}}
{{- define "tessera.username" -}}
system:serviceaccount:{{ (index . 0).Release.Namespace }}:{{ index . 1 }}
{{- end }}

{{/* Labels that select; never change between versions. Takes (list $ "component"). */}}
{{- define "tessera.selectorLabels" -}}
app.kubernetes.io/name: tessera
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* All labels of an object. Takes (list $ "component"). */}}
{{- define "tessera.labels" -}}
{{ include "tessera.selectorLabels" . }}
app.kubernetes.io/part-of: tessera
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Image of the control plane: a digest wins over a tag, the tag defaults to the chart's appVersion. */}}
{{- define "tessera.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* CEL: does this list of device requests ask for our class? Takes the CEL expression of the list. */}}
{{- define "tessera.celAsksForOurClass" -}}
{{ . }}.exists(r,
  (has(r.exactly) && r.exactly.deviceClassName == "{{ include "tessera.deviceClass" . }}") ||
  (has(r.firstAvailable) && r.firstAvailable.exists(s, s.deviceClassName == "{{ include "tessera.deviceClass" . }}")))
{{- end }}
